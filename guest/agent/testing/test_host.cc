// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/testing/test_host.h"

#include "base/clock.h"
#include "proto/agent.pb.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include <poll.h>
#include <sys/socket.h>

namespace mayfly::guest {
namespace {

constexpr uint64_t kMillisecond = 1'000'000;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "test host: %s\n", what);
  std::abort();
}

std::string frame_of(const agent::ExecInput& message) {
  SendQueue queue;
  const std::string bytes = message.SerializeAsString();
  queue.add_frame(std::as_bytes(std::span(bytes)));
  std::string out(queue.size(), '\0');
  std::ranges::copy(queue.pending(), std::as_writable_bytes(std::span(out)).begin());
  return out;
}

}  // namespace

TestHost::TestHost(Service& service) : service_(service) {
  auto ends = Fd::socket_pair(SOCK_STREAM | SOCK_NONBLOCK);
  require(ends.has_value(), "socket pair");
  fd_ = std::move(ends->first);
  service.adopt(std::move(ends->second));
}

void TestHost::start(std::vector<std::string> argv, std::vector<std::string> env,
                     const std::string& directory, bool terminal) {
  agent::ExecInput message;
  auto& start = *message.mutable_start();
  for (std::string& argument : argv) *start.add_argv() = std::move(argument);
  for (std::string& entry : env) *start.add_env() = std::move(entry);
  start.set_working_directory(directory);
  start.set_terminal(terminal);
  if (terminal) {
    start.mutable_window_size()->set_rows(24);
    start.mutable_window_size()->set_columns(80);
  }
  send_raw(frame_of(message));
}

void TestHost::start_as(std::vector<std::string> argv, uint32_t uid, uint32_t gid,
                        std::vector<uint32_t> groups, const std::string& directory) {
  agent::ExecInput message;
  auto& as = *message.mutable_start_as();
  for (std::string& argument : argv) *as.mutable_start()->add_argv() = std::move(argument);
  as.mutable_start()->set_working_directory(directory);
  as.set_uid(uid);
  as.set_gid(gid);
  for (const uint32_t group : groups) as.add_groups(group);
  send_raw(frame_of(message));
}

void TestHost::send_stdin(const std::string& bytes) {
  for (size_t at = 0; at < bytes.size(); at += 32 * 1024) {
    agent::ExecInput message;
    message.set_stdin(bytes.substr(at, 32 * 1024));
    send_raw(frame_of(message));
  }
}

void TestHost::send_stdin_end() {
  agent::ExecInput message;
  message.set_stdin_end(true);
  send_raw(frame_of(message));
}

void TestHost::send_signal(uint32_t number) {
  agent::ExecInput message;
  message.set_signal(number);
  send_raw(frame_of(message));
}

void TestHost::send_window(uint32_t rows, uint32_t columns) {
  agent::ExecInput message;
  message.mutable_window_size()->set_rows(rows);
  message.mutable_window_size()->set_columns(columns);
  send_raw(frame_of(message));
}

void TestHost::send_raw(const std::string& bytes) {
  size_t sent = 0;
  const uint64_t deadline = monotonic_ns() + 10'000 * kMillisecond;
  while (sent < bytes.size()) {
    require(monotonic_ns() < deadline, "the agent does not take what is sent");
    const ssize_t count =
        ::send(fd_.number(), bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
    if (count > 0) {
      sent += static_cast<size_t>(count);
    } else {
      if (errno != EAGAIN) return;
      require(service_.step(monotonic_ns() + 5 * kMillisecond).has_value(), "step");
      if (!read_some(64 * 1024)) return;
    }
  }
}

bool TestHost::read_some(size_t limit) {
  if (transcript_.closed) return false;
  const std::span<std::byte> room = decoder_.room();
  const ssize_t count =
      ::recv(fd_.number(), room.data(), std::min(room.size(), limit), MSG_DONTWAIT);
  if (count < 0) {
    transcript_.closed = errno != EAGAIN && errno != EINTR;
  } else if (count == 0) {
    transcript_.closed = true;
  } else {
    decoder_.filled(static_cast<size_t>(count));
    take_frames();
  }
  return !transcript_.closed;
}

void TestHost::take_frames() {
  for (;;) {
    const auto frame = decoder_.next();
    require(frame.has_value(), "a frame from the agent");
    if (!*frame) return;
    agent::ExecOutput message;
    require(message.ParseFromArray((*frame)->data(), static_cast<int>((*frame)->size())),
            "a message from the agent");
    if (transcript_.exited || transcript_.failed) transcript_.misordered = true;
    if (message.has_started()) {
      transcript_.started = message.started().pid();
    } else if (message.has_stdout()) {
      if (transcript_.started == 0) transcript_.misordered = true;
      transcript_.stdout_bytes += message.stdout();
    } else if (message.has_stderr()) {
      transcript_.stderr_bytes += message.stderr();
    } else if (message.has_exited()) {
      transcript_.exited = true;
      transcript_.exit_code = message.exited().exit_code();
      transcript_.signal = message.exited().signal();
    } else if (message.has_failed()) {
      transcript_.failed = true;
      transcript_.guest_errno = message.failed().guest_errno();
      transcript_.failure = message.failed().message();
    }
  }
}

const Transcript& TestHost::finish(uint64_t timeout_ms) {
  const uint64_t deadline = monotonic_ns() + timeout_ms * kMillisecond;
  while (read_some(64 * 1024) && monotonic_ns() < deadline) {
    require(service_.step(monotonic_ns() + kMillisecond).has_value(), "step");
  }
  close();
  return transcript_;
}

bool TestHost::wait_for_output(const std::string& text, uint64_t timeout_ms) {
  const uint64_t deadline = monotonic_ns() + timeout_ms * kMillisecond;
  while (transcript_.stdout_bytes.find(text) == std::string::npos && monotonic_ns() < deadline) {
    if (!read_some(64 * 1024)) break;
    require(service_.step(monotonic_ns() + kMillisecond).has_value(), "step");
  }
  return transcript_.stdout_bytes.find(text) != std::string::npos;
}

bool TestHost::wait_for_start(uint64_t timeout_ms) {
  const uint64_t deadline = monotonic_ns() + timeout_ms * kMillisecond;
  while (transcript_.started == 0 && monotonic_ns() < deadline && read_some(64 * 1024)) {
    require(service_.step(monotonic_ns() + kMillisecond).has_value(), "step");
  }
  return transcript_.started != 0;
}

std::unique_ptr<Service> make_service(std::string failure) {
  ::signal(SIGPIPE, SIG_IGN);
  ServiceOptions options;
  options.failure = std::move(failure);
  auto service = Service::create(std::move(options));
  require(service.has_value(), "service");
  return std::move(*service);
}

void drive(Service& service, uint64_t duration_ms) {
  const uint64_t deadline = monotonic_ns() + duration_ms * kMillisecond;
  while (service.connections() > 0 && monotonic_ns() < deadline) {
    require(service.step(std::min(deadline, monotonic_ns() + 10 * kMillisecond)).has_value(),
            "step");
  }
}

}  // namespace mayfly::guest
