// SPDX-License-Identifier: Apache-2.0
#include "daemon/exec_session.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>

#include <poll.h>
#include <sys/socket.h>

namespace mayfly::daemon {

namespace {

constexpr size_t kReadBytes = 64 * 1024;
constexpr size_t kMaxArguments = 4096;
constexpr size_t kMaxGroups = 64;
constexpr uint32_t kNoId = 0xffffffff;  // To the kernel: no change.
// How long the end of a connection may come before the news of the VM's end.
constexpr auto kVmEndDelay = std::chrono::milliseconds(1000);

Result<> validate(const ExecUser& user) {
  if (user.groups.size() > kMaxGroups) {
    return fail({Code::kInvalidArgument, "EXEC_USER"}, "user.groups: %zu is above the limit of %zu",
                user.groups.size(), kMaxGroups);
  }
  std::vector<uint32_t> ids = user.groups;
  ids.insert(ids.end(), {user.uid, user.gid});
  if (std::ranges::find(ids, kNoId) == ids.end()) return {};
  return fail({Code::kInvalidArgument, "EXEC_USER"}, "user: %u is no id; the limit is %u", kNoId,
              kNoId - 1);
}

Result<> validate(const ExecStart& start) {
  if (start.user) TRY(validate(*start.user));
  if (start.argv.empty() || start.argv[0].empty()) {
    return fail({Code::kInvalidArgument, "COMMAND_MISSING"}, "argv: no command was given");
  }
  if (start.argv.size() > kMaxArguments || start.env.size() > kMaxArguments) {
    return fail({Code::kInvalidArgument, "COMMAND_TOO_LONG"},
                "argv, env: %zu and %zu entries; the limit is %zu", start.argv.size(),
                start.env.size(), kMaxArguments);
  }
  for (const std::string& entry : start.env) {
    if (entry.find('=') == std::string::npos || entry[0] == '=') {
      return fail({Code::kInvalidArgument, "ENV_BAD"}, "env: an entry is not KEY=VALUE");
    }
  }
  return {};
}

int poll_timeout_ms(const Call& call) {
  if (call.is_cancelled) return 250;  // As in Call::wait().
  if (call.deadline == SteadyTime::max()) return -1;
  const auto left = call.deadline - std::chrono::steady_clock::now();
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
  return static_cast<int>(std::clamp<int64_t>(ms, 0, 1000));
}

}  // namespace

Result<std::unique_ptr<ExecSession>> ExecSession::open(Vm& vm, const ExecStart& start,
                                                       const Call& call) {
  TRY(validate(start));
  const std::string frame = TRY(encode_exec_start(start));
  Fd stream = TRY(vm.connect_exec(call));
  std::unique_ptr<ExecSession> session(new ExecSession(vm, std::move(stream)));
  TRY(session->send(frame));
  return session;
}

Result<> ExecSession::send_stdin(std::string_view bytes) {
  while (!bytes.empty()) {
    const std::string_view part = bytes.substr(0, kMaxStdinBytes);
    TRY(send(encode_exec_stdin(part)));
    bytes.remove_prefix(part.size());
  }
  return {};
}

Result<> ExecSession::send_stdin_end() { return send(encode_exec_stdin_end()); }
Result<> ExecSession::send_signal(uint32_t signal) { return send(encode_exec_signal(signal)); }
Result<> ExecSession::send_window_size(const WindowSize& size) {
  return send(encode_exec_window_size(size));
}

Result<> ExecSession::send(const std::string& frame) {
  std::string_view left = frame;
  while (!left.empty()) {
    const ssize_t size = ::send(stream_.number(), left.data(), left.size(), MSG_NOSIGNAL);
    if (size >= 0) {
      left.remove_prefix(static_cast<size_t>(size));
    } else if (errno != EINTR) {
      return fail_errno({Code::kUnavailable, "AGENT_GONE"}, errno, "send to the guest's agent");
    }
  }
  return {};
}

Result<ExecOutput> ExecSession::next(const Call& call) {
  std::array<std::byte, kReadBytes> buffer;
  for (;;) {
    std::optional<std::string> payload = TRY(reader_.next());
    if (payload) {
      ExecOutput output = TRY(parse_exec_output(*payload));
      if (!std::holds_alternative<std::monostate>(output)) return output;
      continue;  // A message of a later agent.
    }
    TRY(call.check("waiting for the command"));
    pollfd entry = {.fd = stream_.number(), .events = POLLIN, .revents = 0};
    if (::poll(&entry, 1, poll_timeout_ms(call)) <= 0) continue;
    const ssize_t size = ::recv(stream_.number(), buffer.data(), buffer.size(), MSG_DONTWAIT);
    if (size > 0) {
      reader_.feed(std::span(buffer).first(static_cast<size_t>(size)));
    } else if (size == 0 || (errno != EAGAIN && errno != EINTR)) {
      return std::unexpected(connection_ended());
    }
  }
}

Error ExecSession::connection_ended() {
  // Most often the VM has ended, and the reason for that is what the caller wants to know.
  if (vm_.wait_stopped(Call::within(kVmEndDelay))) {
    const VmView view = vm_.view();
    std::string why = view.exit ? exit_reason_text(view.exit->reason) : "no reason is known";
    if (view.exit && view.exit->signal != 0) why += format(" by signal %d", view.exit->signal);
    if (view.exit && !view.exit->detail.empty()) why += ": " + view.exit->detail;
    return fail({Code::kAborted, "VM_STOPPED"}, "the VM ended while the command ran: %s",
                why.c_str())
        .error();
  }
  return fail({Code::kUnavailable, "AGENT_GONE"},
              "the guest's agent ended the connection before the command's exit")
      .error();
}

void ExecSession::cancel() { ::shutdown(stream_.number(), SHUT_RDWR); }

}  // namespace mayfly::daemon
