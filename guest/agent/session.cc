// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/session.h"

#include "base/clock.h"
#include "base/log.h"
#include "guest/agent/convert.h"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::guest {
namespace {

constexpr uint64_t kSecond = 1'000'000'000;
constexpr uint64_t kStartTimeoutNs = 10 * kSecond;
// Between SIGHUP and SIGKILL for a command whose host has gone.
constexpr uint64_t kHangUpGraceNs = 2 * kSecond;
// How long the host has to close its side after the last message.
constexpr uint64_t kLingerNs = 2 * kSecond;
// More than a terminal holds; what is written to it after the command's exit is read up to here.
constexpr size_t kTerminalDrain = 128 * 1024;
// One busy connection must not starve the others.
constexpr int kReadsPerRound = 4;
constexpr std::byte kEndOfTransmission{4};

Exited exited_of(int wait_status) {
  if (WIFSIGNALED(wait_status)) {
    const auto number = static_cast<uint32_t>(WTERMSIG(wait_status));
    return {128 + number, number};
  }
  return {static_cast<uint32_t>(WEXITSTATUS(wait_status)), 0};
}

}  // namespace

Session::Session(Fd connection, Refusal refusal)
    : connection_(std::move(connection)),
      refusal_(std::move(refusal)),
      deadline_ns_(monotonic_ns() + kStartTimeoutNs) {
  outputs_[1].stream = OutputStream::kStderr;
}

bool Session::accepts_input() const {
  if (state_ == State::kWaiting || state_ == State::kLingering) return true;
  return state_ == State::kRunning && backlog_.size() < kMaxBacklog;
}

void Session::collect(PollSet& set) {
  connection_slot_ = stdin_slot_ = status_slot_ = PollSet::kNone;
  for (Output& output : outputs_) output.slot = PollSet::kNone;
  if (state_ == State::kDone || state_ == State::kHungUp) return;
  // Once the command is over, a host that has closed only its own direction still gets the rest.
  const int hang_up = state_ <= State::kRunning ? POLLRDHUP : 0;
  const int wanted = hang_up | (accepts_input() ? POLLIN : 0) | (out_.empty() ? 0 : POLLOUT);
  connection_slot_ = set.add(connection_.ref(), static_cast<short>(wanted));
  if (state_ == State::kStarting) status_slot_ = set.add(child_.exec_status.ref(), POLLIN);
  if (state_ != State::kRunning) return;
  if (child_.stdin_end.valid() && !backlog_.empty()) {
    stdin_slot_ = set.add(child_.stdin_end.ref(), POLLOUT);
  }
  for (Output& output : outputs_) {
    if (!output.fd.valid() || out_.size() >= kMaxPendingOutput) continue;
    output.slot = set.add(output.fd.ref(), POLLIN);
  }
}

void Session::handle(const PollSet& set, uint64_t now_ns) {
  if (now_ns >= deadline_ns_) {
    deadline_ns_ = kNever;
    if (state_ == State::kHungUp) {
      signal_group(SIGKILL);
    } else {
      state_ = State::kDone;
    }
  }
  if (set.events(status_slot_) != 0) learn_exec_status();
  if (const short events = set.events(connection_slot_); events != 0) {
    read_connection(events, now_ns);
  }
  if (set.events(stdin_slot_) != 0) write_stdin();
  process_frames(now_ns);
  for (Output& output : outputs_) {
    if (set.events(output.slot) != 0) pump(output);
  }
  send(now_ns);
  drain(now_ns);
}

// After the exit the pipes are read without being polled, as fast as the host takes their contents.
// Each turn reads something or ends the drain.
void Session::drain(uint64_t now_ns) {
  while (state_ == State::kDraining && out_.size() < kMaxPendingOutput) {
    for (Output& output : outputs_) pump(output);
    if (!outputs_[0].fd.valid() && !outputs_[1].fd.valid()) report_exit();
    send(now_ns);
  }
}

void Session::read_connection(short events, uint64_t now_ns) {
  if (!accepts_input()) {
    if ((events & (POLLRDHUP | POLLHUP | POLLERR)) != 0) hang_up(now_ns);
    return;
  }
  for (int turn = 0; turn < kReadsPerRound && accepts_input(); ++turn) {
    const std::span<std::byte> room = decoder_.room();
    const ssize_t count = ::recv(connection_.number(), room.data(), room.size(), MSG_DONTWAIT);
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (count <= 0) return hang_up(now_ns);
    // The host may still be talking while it has not read our last word; that is not for anybody.
    if (state_ == State::kLingering) continue;
    decoder_.filled(static_cast<size_t>(count));
    process_frames(now_ns);
  }
}

void Session::process_frames(uint64_t now_ns) {
  while (accepts_input() && state_ != State::kLingering) {
    const auto frame = decoder_.next();
    if (frame && !*frame) return;
    Result<ExecInput> message = frame ? parse_exec_input(**frame) : std::unexpected(frame.error());
    if (message) {
      on_message(std::move(*message), now_ns);
    } else if (state_ == State::kWaiting) {
      fail_start(EPROTO, message.error().message());
    } else {
      log(LogLevel::kWarning, "exec: %s", message.error().describe().c_str());
      return hang_up(now_ns);
    }
  }
}

void Session::on_message(ExecInput message, uint64_t now_ns) {
  ExecStart* start = std::get_if<ExecStart>(&message);
  if (state_ == State::kWaiting) {
    if (refusal_.guest_errno != 0) return fail_start(refusal_.guest_errno, refusal_.message);
    if (start == nullptr) return fail_start(EPROTO, "the first message must be start");
    start_ = std::move(*start);
    return on_start(start_);
  }
  if (start != nullptr) return hang_up(now_ns);
  if (const auto* bytes = std::get_if<StdinBytes>(&message)) {
    if (!child_.stdin_end.valid() || stdin_ended_) return;
    backlog_.add_bytes(std::as_bytes(std::span(bytes->bytes)));
    write_stdin();
  } else if (std::holds_alternative<StdinEnd>(message)) {
    on_stdin_end();
  } else if (const auto* signal = std::get_if<SendSignal>(&message)) {
    signal_group(signal->number);
  } else if (const auto* window = std::get_if<WindowSize>(&message)) {
    if (start_.terminal) set_window_size(outputs_[0].fd.ref(), *window);
  }
}

void Session::on_start(const ExecStart& start) {
  Result<Child> child = spawn(start);
  if (!child) {
    return fail_start(child.error().os_errno() != 0 ? child.error().os_errno() : EAGAIN,
                      child.error().message());
  }
  child_ = std::move(*child);
  deadline_ns_ = kNever;
  state_ = State::kStarting;
}

void Session::on_stdin_end() {
  if (stdin_ended_ || !child_.stdin_end.valid()) return;
  // A terminal has no end of its own: the character that means it does the work.
  if (start_.terminal) backlog_.add_bytes(std::span(&kEndOfTransmission, 1));
  stdin_ended_ = true;
  write_stdin();
}

void Session::learn_exec_status() {
  ExecFailure failure;
  switch (read_exec_status(child_.exec_status.ref(), start_, failure)) {
    case ExecStatus::kPending:
      return;
    case ExecStatus::kFailed:
      child_.pid = -1;
      return fail_start(failure.guest_errno, failure.message);
    case ExecStatus::kRunning:
      break;
  }
  child_.exec_status.reset();
  outputs_[0].fd = std::move(child_.stdout_end);
  outputs_[1].fd = std::move(child_.stderr_end);
  state_ = State::kRunning;
  add_started(out_, static_cast<uint32_t>(child_.pid));
}

void Session::write_stdin() {
  while (child_.stdin_end.valid() && !backlog_.empty()) {
    const std::span<const std::byte> bytes = backlog_.pending();
    const ssize_t count = ::write(child_.stdin_end.number(), bytes.data(), bytes.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    if (count < 0) {
      // The command has closed its standard input: the rest has no reader.
      child_.stdin_end.reset();
      backlog_.clear();
      return;
    }
    backlog_.sent(static_cast<size_t>(count));
  }
  if (stdin_ended_ && !start_.terminal) child_.stdin_end.reset();
}

void Session::pump(Output& output) {
  std::byte chunk[kMaxOutputBytes];
  while (output.fd.valid() && out_.size() < kMaxPendingOutput) {
    const size_t wanted = std::min(sizeof(chunk), output.left);
    const ssize_t count = wanted == 0 ? 0 : ::read(output.fd.number(), chunk, wanted);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN && state_ != State::kDraining) return;
    if (count <= 0) return output.fd.reset();
    add_output(out_, output.stream, std::span(chunk, static_cast<size_t>(count)));
    if (output.left != SIZE_MAX) output.left -= static_cast<size_t>(count);
  }
}

void Session::report_exit() {
  add_exited(out_, exited_of(wait_status_));
  close_streams();
  state_ = State::kReporting;
}

void Session::send(uint64_t now_ns) {
  while (!out_.empty() && state_ != State::kDone && state_ != State::kHungUp) {
    const std::span<const std::byte> bytes = out_.pending();
    const ssize_t count =
        ::send(connection_.number(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return;
    if (count < 0) return hang_up(now_ns);
    out_.sent(static_cast<size_t>(count));
  }
  if (state_ != State::kReporting) return;
  // Closing outright could discard our last message where the host's own bytes are still unread
  // here.
  ::shutdown(connection_.number(), SHUT_WR);
  state_ = State::kLingering;
  deadline_ns_ = now_ns + kLingerNs;
}

void Session::on_exit(int wait_status, uint64_t now_ns) {
  // The child is gone, so what it had to say about its start is there.
  if (state_ == State::kStarting) learn_exec_status();
  child_.pid = -1;
  if (state_ == State::kHungUp) state_ = State::kDone;
  if (state_ != State::kRunning) return;
  wait_status_ = wait_status;
  state_ = State::kDraining;
  child_.terminal_side.reset();
  for (Output& output : outputs_) {
    if (!output.fd.valid()) continue;
    output.left = start_.terminal ? kTerminalDrain : bytes_waiting(output.fd.ref());
  }
  drain(now_ns);
}

void Session::fail_start(int guest_errno, const std::string& message) {
  add_failed(out_, guest_errno, message);
  close_streams();
  state_ = State::kReporting;
}

void Session::hang_up(uint64_t now_ns) {
  out_.clear();
  if (child_.pid < 0) {
    state_ = State::kDone;
    return;
  }
  signal_group(SIGHUP);
  signal_group(SIGCONT);
  close_streams();
  connection_.reset();
  state_ = State::kHungUp;
  deadline_ns_ = now_ns + kHangUpGraceNs;
}

void Session::signal_group(int number) const {
  if (child_.pid <= 0) return;
  // Before the child has made its own group there is only the child.
  if (::kill(-child_.pid, number) != 0) ::kill(child_.pid, number);
}

void Session::close_streams() {
  child_.stdin_end.reset();
  child_.stdout_end.reset();
  child_.stderr_end.reset();
  child_.terminal_side.reset();
  child_.exec_status.reset();
  for (Output& output : outputs_) output.fd.reset();
  backlog_.clear();
}

}  // namespace mayfly::guest
