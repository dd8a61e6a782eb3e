// SPDX-License-Identifier: Apache-2.0
#include "daemon/vm.h"

#include "base/clock.h"
#include "base/log.h"

#include <algorithm>
#include <cerrno>
#include <csignal>

#include <sys/socket.h>

namespace mayfly::daemon {

namespace {

constexpr auto kStopReply = std::chrono::seconds(3);
constexpr auto kReapAfterKill = std::chrono::seconds(10);

std::string stopped_text(const std::optional<VmExit>& exit) {
  if (!exit) return "the VM has stopped";
  std::string text = format("the VM has stopped: %s", exit_reason_text(exit->reason));
  if (exit->signal != 0) text += format(" by signal %d", exit->signal);
  if (!exit->detail.empty()) text += ": " + exit->detail;
  return text;
}

}  // namespace

Vm::Vm(const VmEnvironment& environment, VmIdentity identity, VmSpec spec)
    : environment_(environment),
      identity_(std::move(identity)),
      metadata_(std::move(spec.metadata)),
      spec_(std::move(spec)),
      cmdline_(compose_cmdline(spec_)),
      create_unix_us_(unix_now_us()) {}

Vm::~Vm() {
  end_fill();
  body_.reset();  // Its hooks use all the rest.
  for (VmNet& net : nets_) net.passt.reset();
}

Result<> Vm::start(const Call& call, Stopwatch& stopwatch) {
  return change("start", VmState::kCreated, VmState::kRunning, Command::kStart, call, stopwatch);
}

Result<> Vm::pause(const Call& call, Stopwatch& stopwatch) {
  return change("pause", VmState::kRunning, VmState::kPaused, Command::kPause, call, stopwatch);
}

Result<> Vm::resume(const Call& call, Stopwatch& stopwatch) {
  return change("resume", VmState::kPaused, VmState::kRunning, Command::kResume, call, stopwatch);
}

Error Vm::stopped_error(const char* what) const {
  return fail({Code::kFailedPrecondition, "VM_STOPPED"},
              "%s %s: %s; it does not run again, create a new one", what, identity_.id.c_str(),
              stopped_text(exit_).c_str())
      .error();
}

Result<> Vm::claim(std::unique_lock<std::mutex>& lock, const char* what, const Call& call) {
  TRY(call.wait(lock, changed_, "waiting for another call on this VM",
                [&] { return !busy_ || state_ == VmState::kStopped; }));
  if (state_ == VmState::kStopped) return std::unexpected(stopped_error(what));
  return {};
}

void Vm::release() {
  {
    std::lock_guard lock(mutex_);
    busy_ = false;
  }
  changed_.notify_all();
}

Result<> Vm::change(const char* what, VmState from, VmState to, Command command, const Call& call,
                    Stopwatch& stopwatch) {
  TRY(wait_created(call));
  {
    std::unique_lock lock(mutex_);
    TRY(claim(lock, what, call));
    if (state_ != from) {
      return fail({Code::kFailedPrecondition, "VM_STATE"}, "%s %s: the VM is %s, it must be %s",
                  what, identity_.id.c_str(), state_name(state_), state_name(from));
    }
    busy_ = true;
    if (start_ns_ == 0 && to == VmState::kRunning) start_ns_ = stopwatch.start_ns();
  }
  stopwatch.lap("queue");
  TRY(change_now(what, from, to, command, call));
  stopwatch.lap("monitor");
  return {};
}

Result<> Vm::change_now(const char* what, VmState from, VmState to, Command command,
                        const Call& call) {
  TRY(body_->monitor().call([&](uint64_t id) { return encode_command(id, command); }, call, what,
                            [this, from, to](const auto& result) {
                              on_changed(result, from, to);
                              release();
                            }));
  return {};
}

Result<> Vm::command(Command command, const char* what, VmState from, VmState to,
                     const Call& call) {
  TRY(body_->monitor().call(
      [&](uint64_t id) { return encode_command(id, command); }, call, what,
      [this, from, to](const auto& result) { on_changed(result, from, to); }));
  return {};
}

void Vm::on_changed(const Result<ControlReply>& reply, VmState from, VmState to) {
  {
    std::lock_guard lock(mutex_);
    if (reply && !reply->error && state_ == from) set_state(to);
  }
  changed_.notify_all();
}

void Vm::set_state(VmState to) {
  const VmState from = state_;
  state_ = to;
  emit(StateChanged{.from = from, .to = to});
  if (guest_ && !ready_emitted_) {
    ready_emitted_ = true;
    emit(*guest_);
  }
}

void Vm::emit(decltype(Event::what) what) {
  environment_.events.append({.sequence = 0,
                              .unix_us = 0,
                              .vm_id = identity_.id,
                              .incarnation = identity_.incarnation,
                              .what = std::move(what)});
}

void Vm::emit_exit() {
  if (exit_->reason == ExitReason::kSyscallDenied) {
    emit(SyscallDenied{.told = exit_->denied_syscall.has_value(),
                       .syscall = exit_->denied_syscall.value_or(DeniedSyscall())});
  }
  emit(*exit_);
}

bool Vm::ask_poweroff() {
  {
    std::lock_guard lock(mutex_);
    stop_asked_ = true;
    if (!published_ || state_ != VmState::kRunning || !guest_) return false;
  }
  return body_->agent() != nullptr && body_->agent()->ask_poweroff();
}

Result<> Vm::stop(std::chrono::milliseconds grace, const Call& call, Stopwatch& stopwatch) {
  TRY(wait_created(call));
  if (grace.count() > 0 && ask_poweroff()) {
    const bool stopped = wait_stopped(call.at_most(grace)).has_value();
    stopwatch.lap("guest-poweroff");
    if (stopped) return {};
    TRY(call.check("waiting for the guest to power off"));
  }
  {
    std::lock_guard lock(mutex_);
    stop_asked_ = true;
    if (state_ == VmState::kStopped) return {};
  }
  // From here on the VM ends whatever the caller's deadline: a reply, no reply and a hung monitor
  // are alike.
  auto reply = body_->monitor().call([](uint64_t id) { return encode_command(id, Command::kStop); },
                                     Call::within(kStopReply), "stop");
  const bool stopped = reply && wait_stopped(Call::within(kStopReply)).has_value();
  stopwatch.lap("monitor-stop");
  if (stopped) return {};
  kill();
  auto ended = wait_stopped(Call::within(kReapAfterKill));
  stopwatch.lap("kill");
  return ended;
}

void Vm::tell_stop() {
  {
    std::lock_guard lock(mutex_);
    stop_asked_ = true;
    if (!published_ || state_ == VmState::kStopped) return;
  }
  // Its deadline has passed when it begins: the command is sent, the reply is not waited for.
  (void)body_->monitor().call([](uint64_t id) { return encode_command(id, Command::kStop); },
                              Call::within(std::chrono::milliseconds(0)), "stop");
}

void Vm::forgotten() { emit(VmDeleted{}); }

void Vm::kill() {
  {
    std::lock_guard lock(mutex_);
    stop_asked_ = true;
    if (!published_ || launch_failed_) return;
  }
  body_->monitor().kill();
}

VmView Vm::view() const {
  std::lock_guard lock(mutex_);
  return view_locked();
}

VmView Vm::view_locked() const {
  std::vector<NetView> nets;
  for (const VmNet& net : nets_) nets.push_back(net.view);
  VmSpec spec = spec_;
  if (spec.balloon && balloon_target_mib_) spec.balloon->target_mib = *balloon_target_mib_;
  return {
      .id = identity_.id,
      .incarnation = identity_.incarnation,
      .state = state_,
      .spec = std::move(spec),
      .cmdline = cmdline_,
      .create_unix_us = create_unix_us_,
      .monitor_pid = !published_ || state_ == VmState::kStopped ? 0 : body_->monitor().pid(),
      .guest = guest_,
      .exit = exit_,
      .jail = published_ && body_ ? std::optional(body_->jail().view()) : std::nullopt,
      .restored_from = restored_from_,
      .reseeded = reseeded_,
      .template_id = template_id_,
      .copied_bytes = copied_bytes_,
      .from_shell = from_shell_,
      .lazy_memory = fill_ ? std::optional(LazyMemoryView{.progress = fill_->progress(),
                                                          .is_complete = !is_memory_missing_})
                           : std::nullopt,
      .nets = std::move(nets),
      .metadata = metadata_.view(),
      .balloon = std::nullopt,
  };
}

Result<VmView> Vm::wait(const WaitGoal& goal, const Call& call) const {
  std::unique_lock lock(mutex_);
  const auto reached = [&] {
    return (goal.guest_ready && guest_) ||
           std::find(goal.states.begin(), goal.states.end(), state_) != goal.states.end();
  };
  TRY(call.wait(lock, changed_, "waiting for the VM", [&] {
    return reached() || (published_ && state_ == VmState::kStopped) || launch_failed_;
  }));
  if (launch_failed_) {
    return fail({Code::kNotFound, "VM_NOT_FOUND"}, "vm_id: %s was not created",
                identity_.id.c_str());
  }
  if (reached()) return view_locked();
  return fail({Code::kFailedPrecondition, "VM_STOPPED"}, "wait for %s: %s", identity_.id.c_str(),
              stopped_text(exit_).c_str());
}

Result<> Vm::wait_stopped(const Call& call) const {
  std::unique_lock lock(mutex_);
  return call.wait(lock, changed_, "waiting for the VM to stop",
                   [&] { return published_ && (state_ == VmState::kStopped || launch_failed_); });
}

Result<> Vm::wait_reseeded(std::chrono::milliseconds limit, const Call& call) const {
  const char* id = identity_.id.c_str();
  std::unique_lock lock(mutex_);
  auto waited = call.at_most(limit).wait(lock, changed_, "waiting for the guest to reseed itself",
                                         [&] { return guest_ || state_ == VmState::kStopped; });
  if (reseeded_ && state_ != VmState::kStopped) return {};
  if (!waited && waited.error().code() == Code::kCancelled) return waited;
  if (!waited) {
    return fail(
        {Code::kDeadlineExceeded, "RESEED_TIMEOUT"},
        "restore %s: its guest has not confirmed in time that it reseeded itself (the limit "
        "is %lld ms)",
        id, static_cast<long long>(limit.count()));
  }
  return fail({Code::kAborted, "RESEED_FAILED"}, "restore %s: its guest did not reseed itself: %s",
              id,
              state_ == VmState::kStopped ? stopped_text(exit_).c_str() : guest_->failure.c_str());
}

Result<VmView> Vm::wait_created(const Call& call) const {
  std::unique_lock lock(mutex_);
  TRY(call.wait(lock, changed_, "waiting for the VM to be created", [&] { return published_; }));
  if (launch_failed_) {
    return fail({Code::kNotFound, "VM_NOT_FOUND"}, "vm_id: %s was not created",
                identity_.id.c_str());
  }
  return view_locked();
}

Result<> Vm::check_guest_reachable() const {
  const char* id = identity_.id.c_str();
  if (!spec_.agent) {
    return fail({Code::kFailedPrecondition, "NO_AGENT"},
                "exec in %s: it was created without the agent", id);
  }
  if (state_ == VmState::kStopped) {
    return fail({Code::kFailedPrecondition, "VM_STOPPED"}, "exec in %s: %s", id,
                stopped_text(exit_).c_str());
  }
  if (state_ == VmState::kCreated || state_ == VmState::kPaused) {
    return fail({Code::kFailedPrecondition, "VM_STATE"},
                "exec in %s: the VM is %s, it must be RUNNING", id, state_name(state_));
  }
  if (guest_ && !guest_->failure.empty()) {
    return fail({Code::kFailedPrecondition, "GUEST_FAILED"},
                "exec in %s: the guest could not be set up: %s", id, guest_->failure.c_str());
  }
  return {};
}

Result<Fd> Vm::connect_exec(const Call& call) {
  TRY(wait_created(call));
  {
    std::unique_lock lock(mutex_);
    // A VM that will never be ready, as it is now, is refused at once.
    TRY(call.wait(lock, changed_, "waiting for the guest to be ready",
                  [&] { return guest_ || !check_guest_reachable(); }));
    TRY(check_guest_reachable());
  }
  auto [ours, guests] = TRY(Fd::socket_pair(SOCK_STREAM));
  const FdRef guests_end = guests.ref();
  TRY(body_->monitor().call(
      [&](uint64_t id) { return encode_vsock_connect(id, kAgentPort, guests_end); }, call,
      "connect to the agent"));
  return std::move(ours);
}

Result<Console*> Vm::console(const Call& call) const {
  TRY(wait_created(call));
  return &body_->console();
}

PhaseTimes Vm::create_times() const {
  std::lock_guard lock(mutex_);
  return create_times_;
}

void Vm::set_create_times(PhaseTimes times) {
  std::lock_guard lock(mutex_);
  create_times_ = std::move(times);
}

VmExit Vm::describe_end(const VmBody& body, MonitorEnd end) const {
  VmExit exit{
      .reason = ExitReason::kMonitorError,
      .detail = {},
      .signal = end.process.signal,
      .exit_status = end.process.exit_status,
      .stderr_tail = std::move(end.stderr_tail),
      .stats = std::nullopt,
      .denied_syscall = std::nullopt,
      .unix_us = unix_now_us(),
  };
  if (end.report) {
    exit.reason = end.report->reason;
    exit.detail = end.report->detail;
    exit.stats = end.report->stats;
    exit.denied_syscall = end.report->denied_syscall;
  } else if (memory_failure_) {
    exit.reason = ExitReason::kMemoryLost;
    exit.detail = memory_failure_->reason() + ": " + memory_failure_->message();
  } else if (exit.signal == SIGSYS) {
    // Its filter stopped it where it could not say so any more.
    exit.reason = ExitReason::kSyscallDenied;
  } else if (exit.signal == SIGKILL && stop_asked_) {
    exit.reason = ExitReason::kHostStop;
    exit.detail = "killed";
  } else if (exit.signal != 0) {
    exit.reason = ExitReason::kMonitorKilled;
    exit.detail = format("signal %d ended the monitor", exit.signal);
    if (exit.signal == SIGKILL && body.jail().killed_for_memory()) {
      exit.detail +=
          format("; the kernel, for want of memory: its limit is %llu MiB",
                 static_cast<unsigned long long>(body.jail().view().limits.memory_mib.value_or(0)));
    }
  } else {
    exit.detail = format("the monitor exited with status %d and left no report", exit.exit_status);
  }
  if (exit.denied_syscall && exit.detail.empty()) {
    exit.detail = format("system call %u of thread %s", exit.denied_syscall->number,
                         exit.denied_syscall->thread.c_str());
  }
  return exit;
}

void Vm::on_monitor_end(VmBody& body, MonitorEnd end) {
  // Given back without the lock.
  std::vector<AddressLease> leases;
  {
    std::lock_guard lock(mutex_);
    exit_ = describe_end(body, std::move(end));
    busy_ = false;
    memory_.file.reset();
    disks_.clear();
    for (VmNet& net : nets_) {
      leases.push_back(std::move(net.lease));
      if (net.passt) net.passt->kill();
    }
    if (fill_) fill_->stop();
    // A VM that never was is told of by the failure of its CreateVm alone; publish() tells of one
    // that was.
    if (!published_) {
      state_ = VmState::kStopped;
    } else {
      set_state(VmState::kStopped);
      emit_exit();
    }
  }
  body.give_back();
  changed_.notify_all();
}

}  // namespace mayfly::daemon
