// SPDX-License-Identifier: Apache-2.0
//
// One VM: its body (directory, jail, monitor, console, agent), and the state machine over that.
//
//   CREATING -> CREATED -> RUNNING <-> PAUSED      and from each of them -> STOPPED, which is
//   final.
//
// Threads: callers' threads call the public functions, which wait on a condition variable and never
// on I/O; the reactor's thread runs the hooks. State changes are made by the hooks, when the
// monitor has replied or ended, so they are right even where the caller's deadline passed before
// the reply.
//
// Locks: mutex_ guards what is marked below; under it only EventLog's lock is taken, and nothing
// waits but on changed_. The monitor's calls are made without it.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/call.h"
#include "daemon/memory_pages.h"
#include "daemon/metadata.h"
#include "daemon/shell_pool.h"
#include "daemon/vm_body.h"
#include "daemon/vm_memory.h"
#include "daemon/vm_view.h"

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace mayfly::daemon {

struct VmIdentity {
  std::string id;
  std::string incarnation;
  std::string request_id;
};

/// What WaitVm waits for.
struct WaitGoal {
  std::vector<VmState> states;
  bool guest_ready = false;
};

/// How a VM comes to be.
struct LaunchPlan {
  /// Run it at once.
  bool start = false;
  /// Null: it boots.
  const RestoreSource* source = nullptr;
  /// Shells that it may have one of; null: none.
  ShellOffer* shells = nullptr;
};

class Vm final : private BodyOwner {
 public:
  Vm(const VmEnvironment& environment, VmIdentity identity, VmSpec spec);
  /// Kills what still runs and removes the directory.
  ~Vm();
  Vm(const Vm&) = delete;
  Vm& operator=(const Vm&) = delete;

  const VmIdentity& identity() const { return identity_; }

  /// Builds the VM; the monitor's reply is the commit point. After a failure the monitor is gone
  /// and the directory removed. Once, by the thread that made the object.
  Result<> launch(const LaunchPlan& plan, const Call& call, Stopwatch& stopwatch);

  /// Instead of launch(), where the VM is refused.
  Result<> refuse(Error error);

  Result<> start(const Call& call, Stopwatch& stopwatch);
  Result<> pause(const Call& call, Stopwatch& stopwatch);
  Result<> resume(const Call& call, Stopwatch& stopwatch);
  /// Saves a running or paused VM, which stands still meanwhile. Where it fails, by the deadline
  /// too, a VM that ran runs on.
  Result<SavedVm> save(const SavePlan& plan, const Call& call, Stopwatch& stopwatch);
  /// What it touched of its memory so far, where its spec says that this is recorded.
  Result<TouchedMemory> touched_memory(const Call& call);
  /// What its memory stands on; none while it has left nothing behind that is in a snapshot.
  std::optional<BaseSnapshot> base() const;
  /// The snapshot `from` has been rebased: the same memory has another digest.
  void rebased(const BaseSnapshot& from, const snapshot::Digest& to);
  /// What the VM left behind in its first save() is now in this snapshot.
  void stands_on(BaseSnapshot base);
  /// What its memory is. vm_pages.cc has this and the next two.
  Result<MemoryView> memory_view() const;
  /// Asks the monitor, in whatever state the VM is.
  Result<PageStretch> look_at_pages(const PageQuery& query, const Call& call);
  /// The memory's file, which cannot be written through the descriptor; once all of it is there.
  Result<Fd> open_memory(const Call& call);
  /// Agent, then monitor, then SIGKILL. Only `call` can end it before the VM is STOPPED.
  Result<> stop(std::chrono::milliseconds grace, const Call& call, Stopwatch& stopwatch);
  void kill();
  /// The guest is asked to power off; does not wait. False: it cannot be asked.
  bool ask_poweroff();
  /// The monitor is told to end; does not wait.
  void tell_stop();
  /// Says in the event log that the registry has it no more.
  void forgotten();

  /// What can be changed of it; absent: that stays.
  struct Update {
    std::optional<uint64_t> balloon_target_mib;
    // Null: none.
    std::optional<Metadata::Document> metadata;
  };
  /// In any state but STOPPED; all is checked before anything is changed. vm_update.cc has it.
  Result<VmView> update(const Update& what, const Call& call, Stopwatch& stopwatch);
  /// With what its balloon is like (vm_balloon.cc), where it has one and its monitor answers in
  /// time.
  Result<VmView> asked_view(const Call& call);

  VmView view() const;
  Result<VmView> wait(const WaitGoal& goal, const Call& call) const;
  Result<> wait_stopped(const Call& call) const;
  /// Of a restored VM: until its guest has reseeded itself, no longer than `limit`. ABORTED
  /// RESEED_FAILED where it says that it cannot, or ends; DEADLINE_EXCEEDED RESEED_TIMEOUT.
  Result<> wait_reseeded(std::chrono::milliseconds limit, const Call& call) const;
  /// Until CreateVm is through with it, one way or the other.
  Result<VmView> wait_created(const Call& call) const;

  /// A stream to the agent's command port, once the guest is ready.
  Result<Fd> connect_exec(const Call& call);

  /// Once the VM is created; lives as long as the VM.
  Result<Console*> console(const Call& call) const;

  PhaseTimes create_times() const;
  void set_create_times(PhaseTimes times);

 private:
  struct Resources;
  Result<> open(Resources& resources, const LaunchPlan& plan, const Call& call);
  /// False: no shell is to be had.
  Result<bool> take_shell(const LaunchPlan& plan);
  Result<> claim_shell(const Resources& resources, const LaunchPlan& plan, const Call& call,
                       Stopwatch& stopwatch);
  Result<> make_body(const Resources& resources, Stopwatch& stopwatch);
  Result<> map_memory(FdRef memory, MemorySource& source, const Call& call);
  ConfigureParams configure_params(const Resources& resources, const LaunchPlan& plan) const;
  std::vector<ConfigureDisk> configure_disks(const Resources& resources) const;
  std::vector<ConfigureNet> configure_nets(const Resources& resources) const;
  Result<> run_monitor(const Resources& resources, const LaunchPlan& plan, const Call& call,
                       Stopwatch& stopwatch);
  void publish(VmState state);
  void abandon();

  Result<> change(const char* what, VmState from, VmState to, Command command, const Call& call,
                  Stopwatch& stopwatch);
  /// The caller has set busy_, which ends with the monitor's reply, whoever waits for it then.
  Result<> change_now(const char* what, VmState from, VmState to, Command command,
                      const Call& call);
  /// Waits until no other call uses the monitor; then the caller sets busy_, and release() ends it.
  Result<> claim(std::unique_lock<std::mutex>& lock, const char* what, const Call& call);
  void release();
  Error stopped_error(const char* what) const;
  Result<> command(Command command, const char* what, VmState from, VmState to, const Call& call);
  Result<> wait_memory(const Call& call, Stopwatch& stopwatch);
  Result<VmState> begin_save(const Call& call);
  Result<SavedVm> save_stopped(const SavePlan& plan, VmState before, const Call& call,
                               Stopwatch& stopwatch);
  Result<> share_disks(const SavePlan& plan);
  Result<> copy_disks(const SavePlan& plan, const Call& call);
  Result<std::vector<WritableDisk>> writable_disks() const;
  Result<TouchedMemory> ask_touched(const Call& call);
  Result<> check_guest_reachable() const;
  void set_state(VmState to);
  void on_changed(const Result<ControlReply>& reply, VmState from, VmState to);
  void on_agent(VmBody& body, const AgentMessage& message) override;
  void on_hello(const VmBody& body, const AgentHello& hello);
  void on_reseeded(const AgentReseeded& reseeded);
  void on_network_set(const AgentNetworkSet& set);
  void offer_metadata(const VmBody& body);
  Result<> check_metadata(const Metadata::Document& document) const;
  void change_metadata(Metadata::Document document);
  /// What the guest's agent has to set; empty: nothing.
  std::vector<AgentInterface> agent_interfaces() const;
  void set_guest_when_told();
  void set_guest(GuestInfo guest);
  Result<> watch_nets();
  void on_net_end(size_t place, const std::string& how);
  void on_memory_end(Result<> result);
  void on_monitor_end(VmBody& body, MonitorEnd end) override;
  VmExit describe_end(const VmBody& body, MonitorEnd end) const;
  void end_fill();
  VmView view_locked() const;
  Result<> check_balloon_target(uint64_t target_mib) const;
  Result<MonitorBalloon> ask_balloon(std::optional<uint64_t> target_mib, const Call& call);
  VmView view_with(const MonitorBalloon& balloon) const;
  void emit(decltype(Event::what) what);
  void emit_exit();

  const VmEnvironment& environment_;
  const VmIdentity identity_;
  // It has what the spec had.
  Metadata metadata_;
  const VmSpec spec_;
  const std::string cmdline_;
  const int64_t create_unix_us_;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  // Guarded by mutex_.
  VmState state_ = VmState::kCreating;
  // launch() is through, one way or the other. Until then only its thread uses body_.
  bool published_ = false;
  bool launch_failed_ = false;
  // A command is with the monitor; the next one waits for its reply.
  bool busy_ = false;
  bool stop_asked_ = false;
  uint64_t start_ns_ = 0;
  bool ready_emitted_ = false;
  std::optional<GuestInfo> guest_;
  // Of a restored VM, once it has said that it did.
  bool reseeded_ = false;
  // One that has said Hello, until it has reseeded itself and set up its network, where it has to.
  std::optional<GuestInfo> waiting_guest_;
  bool awaits_reseeded_ = false;
  bool awaits_network_ = false;
  std::optional<VmExit> exit_;
  PhaseTimes create_times_;
  // Since the last update() of it.
  std::optional<uint64_t> balloon_target_mib_;
  // Their files go with the monitor.
  VmMemory memory_;
  std::vector<WritableDisk> disks_;
  std::vector<VmNet> nets_;
  // Of a VM whose memory comes as it runs: whether any is still missing, and why it never will be
  // complete.
  bool is_memory_missing_ = false;
  std::optional<Error> memory_failure_;
  std::unique_ptr<MemoryFill> fill_;

  // Constant once launch() has begun to build.
  std::string restored_from_;
  std::string template_id_;
  uint64_t copied_bytes_ = 0;
  bool from_shell_ = false;

  // Set by launch(), before its hooks can run, and constant once published_. After a failure there
  // is none.
  std::unique_ptr<VmBody> body_;
  // Keeps a monitor whose memory is missing alive, and tells it when that is over.
  Fd guard_;
};

}  // namespace mayfly::daemon
