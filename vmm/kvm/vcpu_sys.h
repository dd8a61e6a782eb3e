// SPDX-License-Identifier: Apache-2.0
//
// One virtual CPU: running it, the exits it ends a run with, and its state as data.
//
// Threads: everything belongs to the vCPU's own thread but request_exit(), which any thread may
// call. While that thread waits outside run(), another may take its place, one at a time: KVM lets
// any thread of the process ask. What an exit carries (port, address, data) is the guest's choice
// and hostile.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "vmm/kvm/kvm_sys.h"
#include "vmm/kvm/vcpu_state.h"

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace mayfly::kvm {

/// Why KVM_RUN returned.
enum class ExitKind : uint8_t {
  kIo,           ///< port I/O; `port`, `write`, `data` (width bytes a time, `count` times)
  kMmio,         ///< an access outside RAM; `address`, `write`, `data`
  kHalt,         ///< HLT that the in-kernel APIC did not handle
  kShutdown,     ///< triple fault
  kInterrupted,  ///< request_exit() or a signal
  kIoapicEoi,    ///< end of a level-triggered interrupt
  kSystemEvent,  ///< the guest asked KVM itself to shut down, reset or report a crash
  kError,        ///< KVM cannot go on; `detail` says what it reported
};

struct Exit {
  ExitKind kind = ExitKind::kError;
  bool write = false;
  uint16_t port = 0;
  uint8_t width = 0;
  Gpa address = {};
  /// For a read, fill it: the guest sees it at the next run(). Valid until then.
  std::span<std::byte> data = {};
  uint32_t detail = 0;
  uint64_t hardware_reason = 0;
};

/// What of a state goes on by itself once it is set: the time-stamp counter and the local APIC's
/// timer.
struct VcpuTime {
  kvm_lapic_state lapic = {};
  std::optional<uint64_t> tsc;
  /// Absent: none is armed.
  std::optional<uint64_t> tsc_deadline;
};

VcpuTime time_of(const VcpuState& state);

class Vcpu {
 public:
  /// Maps vCPU `fd`'s run area.
  static Result<Vcpu> create(const Kvm& kvm, Fd fd, uint32_t index);
  ~Vcpu();
  Vcpu(Vcpu&& other) noexcept;
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;

  uint32_t index() const { return index_; }

  Result<> set_cpuid(const CpuidTable& table);
  /// What set_cpuid() was given, with the bits that follow the guest's registers as they are now.
  Result<CpuidTable> cpuid() const;
  /// 0 where the host does not know it.
  uint32_t tsc_khz() const;
  /// Lets the guest's kvmclock say at its next reading that the guest stood still, so that its
  /// watchdogs start anew. Nothing where the guest has no kvmclock.
  void tell_pause();

  /// Does what run() does before the first guest instruction, and stops there: KVM makes the tables
  /// it translates the guest's addresses with, for example. For a vCPU that has its state, on its
  /// own thread.
  void warm_up();
  /// Runs guest code until something needs the monitor.
  Exit run();

  /// Any thread: the run() under way, or the next one, ends with kInterrupted. The vCPU's thread
  /// must be told by a signal too (install_kick_signal()); clear_exit_request() goes on.
  void request_exit();
  void clear_exit_request();

  Result<kvm_regs> regs() const;
  Result<> set_regs(const kvm_regs& regs);
  Result<kvm_sregs> sregs() const;
  Result<> set_sregs(const kvm_sregs& sregs);

  /// The whole state, in the order KVM wants; `list` from Kvm::msr_list(). MSRs the host lists but
  /// cannot read are left out. The last run() ended with kInterrupted: KVM finishes an access that
  /// left the guest only in the next run().
  Result<VcpuState> save(const MsrList& list) const;
  /// The same back, but for time_of() it. Names the part or MSR that the host refuses; an MSR that
  /// cannot be written but has the value already is no matter.
  Result<> restore(const VcpuState& state);
  /// Time goes on from here, so this is the last before the vCPU runs. After restore().
  Result<> restore_time(const VcpuTime& time);

 private:
  Vcpu(Fd fd, uint32_t index) : fd_(std::move(fd)), index_(index) {}
  Exit decode() const;
  Result<> set_msrs(MsrTable& table);

  Fd fd_;
  uint32_t index_;
  kvm_run* run_ = nullptr;
  uint32_t map_size_ = 0;
};

/// The signal that ends KVM_RUN on the thread it is sent to.
inline constexpr int kKickSignal = SIGUSR1;
/// Makes kKickSignal harmless and interrupting. Once, from main().
void install_kick_signal();

}  // namespace mayfly::kvm
