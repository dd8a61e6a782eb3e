// SPDX-License-Identifier: Apache-2.0
//
// One mayfly-vmm process: launched, talked to over its control socket, watched to its end. The
// process is not trusted: what it says is bounded, and no call waits for it beyond the caller's
// deadline.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/call.h"
#include "daemon/control_codec.h"
#include "daemon/process_sys.h"
#include "daemon/reactor.h"
#include "jailer/launch.h"

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

namespace mayfly::daemon {

inline constexpr size_t kMaxStderrTailBytes = 8 * 1024;
inline constexpr size_t kMaxPendingCalls = 64;

struct MonitorPlan {
  // Both open for reading.
  FdRef vmm;
  FdRef jailer;
  // What it names outlives the monitor.
  jailer::JailPlan jail;
  // Absolute, short enough to bind; made here, removed by the owner of its directory.
  std::string control_path;
  // The monitor's copy of the exit report, which is read when it has ended.
  FdRef exit_report;
};

struct MonitorEnd {
  ProcessEnd process;
  std::string stderr_tail;
  std::optional<ExitReport> report;
};

/// For people.
std::string describe_end(const MonitorEnd& end);

class Monitor {
 public:
  /// Runs on the reactor's thread, once, when the process has been reaped.
  using EndHook = std::move_only_function<void(MonitorEnd)>;
  /// Runs once, whatever comes of the call: on the reactor's thread when the reply is there, or the
  /// monitor has ended without one, even where the caller has given up by then; on the caller's
  /// where nothing was sent.
  using ReplyHook = std::function<void(const Result<ControlReply>&)>;

  static Result<std::unique_ptr<Monitor>> launch(Reactor& reactor, const MonitorPlan& plan,
                                                 EndHook ended);
  /// Kills and reaps the process if it still runs.
  ~Monitor();

  pid_t pid() const { return process_.pid; }

  /// Sends the packet that `encode` makes for a request id and waits for its reply. An error that
  /// the monitor replies with is returned as an Error. Any thread but the reactor's.
  Result<ControlReply> call(const std::function<ControlPacket(uint64_t id)>& encode,
                            const Call& call, const char* what, ReplyHook hook = nullptr);

  /// SIGKILL; the end comes through the EndHook.
  void kill();

 private:
  struct Pending {
    ReplyHook hook;
    std::optional<Result<ControlReply>> outcome;
    bool abandoned = false;
  };

  Monitor(jailer::Launched process, Fd control, Fd error_pipe, Fd exit_report, EndHook ended);
  Result<> watch(Reactor& reactor);
  /// Takes the hook where it succeeds: the call's id.
  Result<uint64_t> begin(const char* what, ReplyHook& hook);
  WatchVerdict on_control();
  WatchVerdict on_stderr();
  void on_end();
  void resolve(uint64_t id, Result<ControlReply> reply);
  void fail_pending(const MonitorEnd& end);

  const jailer::Launched process_;
  const Fd control_;
  // Reactor's thread only.
  Fd error_pipe_;
  const Fd exit_report_;
  std::string stderr_tail_;
  EndHook ended_hook_;

  std::mutex mutex_;
  std::condition_variable replied_;
  // Guarded by mutex_.
  std::unordered_map<uint64_t, Pending> pending_;
  uint64_t next_id_ = 1;
  bool ended_ = false;
  std::string end_text_;  // How it ended, once it has.

  // Last: destroyed first, so that no callback runs on a half-destroyed monitor.
  Watch control_watch_;
  Watch stderr_watch_;
  Watch end_watch_;
};

}  // namespace mayfly::daemon
