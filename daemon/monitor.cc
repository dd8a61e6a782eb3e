// SPDX-License-Identifier: Apache-2.0
#include "daemon/monitor.h"

#include "base/log.h"
#include "daemon/text.h"
#include "daemon/unix_socket_sys.h"

#include <array>
#include <chrono>
#include <csignal>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

// How much is taken in one callback, so that a monitor that never stops talking does not hold the
// thread.
constexpr int kMaxPacketsAtOnce = 32;
// Between a monitor's socket breaking and it being reaped, unless it broke the socket and lives on.
constexpr auto kNewsOfEnd = std::chrono::milliseconds(1000);
constexpr int kMaxStderrReadsAtOnce = 16;

std::optional<ExitReport> read_report(FdRef file) {
  std::array<std::byte, kMaxExitReportBytes + 1> buffer;
  const ssize_t size = ::pread(file.number(), buffer.data(), buffer.size(), 0);
  if (size <= 0) return std::nullopt;
  auto report = parse_exit_report(std::span(buffer).first(static_cast<size_t>(size)));
  if (!report) return std::nullopt;
  return *std::move(report);
}

}  // namespace

std::string describe_end(const MonitorEnd& end) {
  std::string text = end.process.signal != 0
                         ? format("killed by signal %d", end.process.signal)
                         : format("exited with status %d", end.process.exit_status);
  if (end.report) text += format(", %s", exit_reason_text(end.report->reason));
  if (end.report && !end.report->detail.empty()) text += ": " + end.report->detail;
  if (!end.stderr_tail.empty()) text += "; its last words: " + printable_tail(end.stderr_tail, 512);
  return text;
}

Result<std::unique_ptr<Monitor>> Monitor::launch(Reactor& reactor, const MonitorPlan& plan,
                                                 EndHook ended) {
  const Fd listener = TRY(listen_unix(plan.control_path, SOCK_SEQPACKET, 1));
  // Before there is a process, so that it finds the connection closed, and ends, where we die in
  // between. The kernel completes it from the listener's backlog: this never waits.
  Fd control = TRY(connect_unix(plan.control_path, SOCK_SEQPACKET | SOCK_NONBLOCK));
  auto [error_read, error_write] = TRY(Fd::pipe());
  TRY(set_nonblocking(error_read.ref(), true));
  Fd exit_report = TRY(Fd::duplicate(plan.exit_report));
  const bool jailed = plan.jail.mode != jailer::JailMode::kOff;
  std::vector<std::string> arguments = {"mayfly-vmm", "--control-fd=3"};
  if (jailed) arguments.emplace_back("--proc-self-fd=4");
  jailer::Launched process = TRY(jailer::launch({
      .jailer = plan.jailer,
      .program = plan.vmm,
      .arguments = std::move(arguments),
      .standard_error = error_write.ref(),
      .inherited = {listener.ref()},
      .leaves_proc_self = jailed,
      .jail = plan.jail,
  }));
  error_write.reset();
  std::unique_ptr<Monitor> monitor(new Monitor(std::move(process), std::move(control),
                                               std::move(error_read), std::move(exit_report),
                                               std::move(ended)));
  TRY(monitor->watch(reactor));
  return monitor;
}

Monitor::Monitor(jailer::Launched process, Fd control, Fd error_pipe, Fd exit_report, EndHook ended)
    : process_(std::move(process)),
      control_(std::move(control)),
      error_pipe_(std::move(error_pipe)),
      exit_report_(std::move(exit_report)),
      ended_hook_(std::move(ended)) {}

Result<> Monitor::watch(Reactor& reactor) {
  control_watch_ =
      TRY(reactor.watch(control_.ref(), EPOLLIN, [this](uint32_t) { return on_control(); }));
  stderr_watch_ =
      TRY(reactor.watch(error_pipe_.ref(), EPOLLIN, [this](uint32_t) { return on_stderr(); }));
  end_watch_ = TRY(reactor.watch(process_.pidfd.ref(), EPOLLIN, [this](uint32_t) {
    on_end();
    return WatchVerdict::kEnd;
  }));
  return {};
}

Monitor::~Monitor() {
  // The end's callback uses the other two.
  end_watch_.reset();
  control_watch_.reset();
  stderr_watch_.reset();
  if (ended_) return;  // No lock: nobody else is left.
  kill();
  if (auto end = wait_and_reap(process_.pidfd.ref(), -1); !end) {
    log(LogLevel::kError, "monitor %d: %s", process_.pid, end.error().describe().c_str());
  }
}

Result<ControlReply> Monitor::call(const std::function<ControlPacket(uint64_t id)>& encode,
                                   const Call& call, const char* what, ReplyHook hook) {
  const auto begun = begin(what, hook);
  if (!begun) {
    if (hook) hook(std::unexpected(begun.error()));
    return std::unexpected(begun.error());
  }
  const uint64_t id = *begun;
  const ControlPacket packet = encode(id);
  if (packet.bytes.size() > kMaxControlBytes) {
    resolve(id, fail({Code::kInvalidArgument, "REQUEST_TOO_LONG"},
                     "%s: %zu bytes are above the limit of %zu", what, packet.bytes.size(),
                     kMaxControlBytes));
  } else if (auto sent =
                 send_packet(control_.ref(), std::as_bytes(std::span(packet.bytes)), packet.fds);
             !sent) {
    if (sent.error().code() == Code::kUnavailable) {
      // One that has just ended is soon reaped, and then the answer says how it ended.
      std::unique_lock lock(mutex_);
      (void)Call::within(kNewsOfEnd).wait(lock, replied_, what, [&] {
        return pending_.at(id).outcome.has_value();
      });
    }
    resolve(id, std::unexpected(std::move(sent).error()));
  }
  std::unique_lock lock(mutex_);
  // Other calls may add to the map meanwhile, but its nodes stay where they are.
  Pending& mine = pending_.at(id);
  if (auto ok = call.wait(lock, replied_, what, [&] { return mine.outcome.has_value(); }); !ok) {
    mine.abandoned = true;
    return std::unexpected(std::move(ok).error());
  }
  Result<ControlReply> reply = *std::move(mine.outcome);
  pending_.erase(id);
  if (reply && reply->error) return std::unexpected(*std::move(reply->error));
  return reply;
}

Result<uint64_t> Monitor::begin(const char* what, ReplyHook& hook) {
  std::lock_guard lock(mutex_);
  if (ended_) {
    return fail({Code::kUnavailable, "MONITOR_GONE"}, "%s: the monitor has ended: %s", what,
                end_text_.c_str());
  }
  if (pending_.size() >= kMaxPendingCalls) {
    return fail({Code::kResourceExhausted, "MONITOR_STUCK"},
                "%s: %zu calls wait for the monitor already", what, pending_.size());
  }
  const uint64_t id = next_id_++;
  pending_.emplace(id,
                   Pending{.hook = std::move(hook), .outcome = std::nullopt, .abandoned = false});
  return id;
}

void Monitor::resolve(uint64_t id, Result<ControlReply> reply) {
  ReplyHook hook;
  {
    std::lock_guard lock(mutex_);
    const auto found = pending_.find(id);
    if (found == pending_.end() || found->second.outcome) return;
    hook = std::exchange(found->second.hook, nullptr);
  }
  // Outside the lock: the hook takes its VM's.
  if (hook) hook(reply);
  {
    std::lock_guard lock(mutex_);
    const auto found = pending_.find(id);
    if (found == pending_.end()) return;
    if (found->second.abandoned) {
      pending_.erase(found);
    } else {
      found->second.outcome = std::move(reply);
    }
  }
  replied_.notify_all();
}

WatchVerdict Monitor::on_control() {
  std::array<std::byte, kMaxControlBytes> buffer;
  for (int i = 0; i < kMaxPacketsAtOnce; ++i) {
    auto size = receive_packet(control_.ref(), buffer);
    if (size && !*size) return WatchVerdict::kKeep;
    if (!size || **size == 0) {
      return WatchVerdict::kEnd;  // It is ending; its pidfd says when it has.
    }
    auto reply = parse_reply(std::span(buffer).first(**size));
    if (!reply) {
      log(LogLevel::kError, "monitor %d: %s; killing it", process_.pid,
          reply.error().describe().c_str());
      kill();
      return WatchVerdict::kEnd;
    }
    const uint64_t id = reply->id;
    resolve(id, std::move(reply));
  }
  return WatchVerdict::kKeep;
}

WatchVerdict Monitor::on_stderr() {
  std::array<char, 4096> buffer;
  for (int i = 0; i < kMaxStderrReadsAtOnce; ++i) {
    const ssize_t size = ::read(error_pipe_.number(), buffer.data(), buffer.size());
    if (size < 0) return WatchVerdict::kKeep;
    if (size == 0) return WatchVerdict::kEnd;
    stderr_tail_.append(buffer.data(), static_cast<size_t>(size));
    if (stderr_tail_.size() > 2 * kMaxStderrTailBytes) {
      stderr_tail_.erase(0, stderr_tail_.size() - kMaxStderrTailBytes);
    }
  }
  return WatchVerdict::kKeep;
}

void Monitor::on_end() {
  auto process_end = reap(process_.pidfd.ref());
  if (!process_end) {
    log(LogLevel::kError, "monitor %d: %s", process_.pid, process_end.error().describe().c_str());
    process_end = ProcessEnd{};
  }
  // What it said before it ended may not have been read yet.
  on_control();
  on_stderr();
  // These two were made before the watch that this runs for.
  control_watch_.disarm();
  stderr_watch_.disarm();
  MonitorEnd end{
      .process = *process_end,
      .stderr_tail = printable_tail(stderr_tail_, kMaxStderrTailBytes),
      .report = read_report(exit_report_.ref()),
  };
  fail_pending(end);
  ended_hook_(std::move(end));
}

void Monitor::fail_pending(const MonitorEnd& end) {
  std::vector<uint64_t> ids;
  {
    std::lock_guard lock(mutex_);
    ended_ = true;
    end_text_ = describe_end(end);
    for (const auto& [id, pending] : pending_) ids.push_back(id);
  }
  for (const uint64_t id : ids) {
    resolve(id, fail({Code::kUnavailable, "MONITOR_GONE"},
                     "the monitor ended before it answered: %s", describe_end(end).c_str()));
  }
}

void Monitor::kill() {
  // After it was reaped the pidfd refers to nothing, and this does nothing.
  send_signal(process_.pidfd.ref(), SIGKILL);
}

}  // namespace mayfly::daemon
