// SPDX-License-Identifier: Apache-2.0
//
// One virtual machine: RAM, KVM, kernel, devices and vCPUs, from being built to its end.
//
//   kBuilt --start()--> kRunning <--pause()/resume()--> kPaused; a restored machine begins there,
//   and one that parks in kParked --claim()--> kPaused
//   and from each of them the end: the guest's own, a KVM error, or end(kHostStop).
//
// Threads: everything belongs to the loop thread, called outside the loop's dispatch, but end(),
// which any thread may call. pause() and finish() run the loop while they wait.
#pragma once

#include "base/console_ring.h"
#include "base/error.h"
#include "base/event/loop.h"
#include "base/memory/guest_memory.h"
#include "snapshot/state.h"
#include "vmm/boot/vmclock.h"
#include "vmm/bus/bus.h"
#include "vmm/kvm/kvm_sys.h"
#include "vmm/kvm/vcpu_sys.h"
#include "vmm/machine/config.h"
#include "vmm/machine/debug_serial.h"
#include "vmm/machine/device_set.h"
#include "vmm/machine/exit_reason.h"
#include "vmm/machine/ioapic.h"
#include "vmm/machine/power_ports.h"
#include "vmm/machine/vcpu_group.h"
#include "vmm/seccomp/confinement.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace mayfly {

class Machine final : public EndListener,
                      private ExitHandler,
                      private Ioapic::MessageSink,
                      private DebugSerial::Sink {
 public:
  enum class State : uint8_t { kBuilt, kRunning, kPaused, kParked };

  struct End {
    ExitReason reason;
    std::string detail;
    uint64_t at_ns;
  };

  /// Builds it from a validated config; nothing runs yet. `loop` outlives the machine, and so does
  /// `pagemap`, our own (invalid: what has changed cannot be saved). `phases` has the times so far.
  /// Each vCPU's thread enters its policy in `confinement`. After an Error the process ends: what
  /// was built is left to its end.
  static Result<std::unique_ptr<Machine>> create(Loop& loop, FdRef pagemap, MachineConfig config,
                                                 Phases phases, vmm::Confinement confinement);
  ~Machine();

  /// Makes a parked machine the VM that `config` means: paused, and time goes on in it. On an Error
  /// it has ended, but for one that says that it is not parked.
  Result<> claim(ClaimConfig config);
  bool parked() const { return state_ == State::kParked; }
  /// Lets it run for the first time.
  Result<> start();
  /// Guest code stands still and no device touches guest memory when it returns.
  Result<> pause();
  Result<> resume();
  /// Of a paused machine, which can be resumed afterwards. On an Error nothing has changed but the
  /// files, or the machine has ended.
  Result<Saved> save(const SaveConfig& config);
  /// What was touched of RAM since it was restored, where its config said so; at any time.
  Result<TouchedPages> touched_pages(const TouchedFiles& files);
  Result<> connect_vsock(uint32_t port, Fd stream);

  /// In whatever state it is, but ended. The guest is told; what comes of it balloon() says.
  Result<> set_balloon(uint64_t target_pages);
  Result<BalloonReport> balloon() const { return devices_->balloon(); }

  /// Runs the loop once. Instead of Loop::run_once() while there is a machine: it may have
  /// something to do at a certain time.
  Result<> run_once();

  /// Any thread: the machine has come to its end; the first reason counts. The loop wakes up.
  void end(ExitReason reason, std::string detail) override;
  /// Any thread: from now on all of the guest's own ends are a panic's, and it has no more than
  /// kPanicGraceNs for one.
  void panicked() override;
  bool ended() const { return ending_.load(std::memory_order_acquire); }
  /// After ended(): stops the vCPUs, lets the devices finish what the guest had asked of them, and
  /// says why it ended.
  End finish();

  /// What guest RAM was made from, and whether the machine still writes it.
  FdRef memory_file() const { return config_.memory.ref(); }
  MemorySharing memory_sharing() const { return memory_->sharing(); }

  /// What pages of RAM are like just now, in whatever state.
  Result<PageReport> pages(const PageQuery& query) const;

  const Phases& phases() const { return phases_; }
  MachineStats stats() const;

 private:
  /// Each vCPU thread counts its own exits.
  struct alignas(64) ExitCounts {
    std::atomic<uint64_t> io = 0;
    std::atomic<uint64_t> mmio = 0;
    std::atomic<uint64_t> halt = 0;
    std::atomic<uint64_t> other = 0;
  };

  /// What of a saved machine waits until it is certain which VM it becomes.
  struct Waiting {
    std::vector<kvm::VcpuTime> vcpus;
    std::vector<snapshot::Device> devices;  // that the claim brings
    uint64_t clock_ns = 0;
  };

  Machine(Loop& loop, FdRef pagemap, MachineConfig config, Phases phases,
          vmm::Confinement confinement, uint32_t virtio_devices);
  /// `saved`: with MachineConfig::restore.
  Result<> build(const snapshot::MachineState* saved);
  Result<> build_vm();
  Result<> build_devices();
  Result<> boot();
  Result<kvm::Vcpu> create_vcpu(uint32_t index, const kvm::CpuidTable& cpuid);

  // machine_state.cc
  static Result<snapshot::MachineState> saved_state(const MachineConfig& config);
  Result<> restore(const RestoreConfig& config, const snapshot::MachineState& saved);
  Result<> restore_memory(const RestoreConfig& config);
  Result<std::vector<kvm::Vcpu>> create_vcpus(const snapshot::MachineState& state);
  Result<> restore_devices(const snapshot::MachineState& state);
  Result<> restore_vcpus(std::vector<kvm::Vcpu>& vcpus, const snapshot::MachineState& state);
  Result<> park(std::vector<kvm::Vcpu> vcpus, const snapshot::MachineState& saved);
  Waiting waiting_for(const snapshot::MachineState& saved) const;
  Result<> restore_time(const Waiting& waiting);
  Result<> tell_of_restore(const std::optional<boot::GenerationId>& id);
  static Result<boot::VmClockMarkers> draw_markers();
  Result<> take_claim(ClaimConfig& config);
  Result<snapshot::MachineState> state();
  Result<uint64_t> save_memory(const SaveConfig& config);

  Result<> expect(State state, const char* what) const;
  /// When the guest is to be asked for statistics, while it runs; 0: never.
  uint64_t stats_deadline_ns();
  Result<> park_vcpus();
  Result<> drain_devices();

  bool on_thread_start() override;
  bool on_exit(uint32_t index, const kvm::Exit& exit) override;
  void on_parked() override;
  void signal_msi(uint64_t address, uint32_t data) override;
  void append(std::span<const std::byte> bytes) override;
  void on_system_event(uint32_t type);
  void on_kvm_error(uint32_t index, const kvm::Exit& exit);

  Loop& loop_;
  const FdRef pagemap_;
  MachineConfig config_;
  Phases phases_;
  const vmm::Confinement confinement_;
  State state_ = State::kBuilt;
  uint64_t stats_asked_ns_ = 0;
  std::unique_ptr<Waiting> waiting_;  // in kParked
  std::atomic<bool> ending_ = false;
  std::atomic<uint64_t> panic_deadline_ns_ = 0;  // 0: no panic
  std::mutex end_lock_;
  std::optional<End> end_;  // guarded by end_lock_

  // Borrowers come after their owners.
  std::optional<GuestMemory> memory_;
  // Of RAM whose touched pages are recorded; invalid in it: not exactly.
  std::optional<Fd> record_;
  std::optional<kvm::Kvm> kvm_;
  kvm::MsrList msr_list_;
  std::optional<kvm::Vm> vm_;
  std::optional<ConsoleRingWriter> console_ring_;
  Ioapic ioapic_;
  PowerPorts power_ports_{*this};
  DebugSerial debug_serial_{*this};
  std::unique_ptr<DeviceSet> devices_;
  Bus ports_;
  Bus mmio_;
  std::vector<ExitCounts> exits_;
  std::unique_ptr<VcpuGroup> vcpus_;
};

}  // namespace mayfly
