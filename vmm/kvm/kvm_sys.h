// SPDX-License-Identifier: Apache-2.0
//
// The KVM device as typed calls: the system (`Kvm`), a virtual machine (`Vm`) and a virtual CPU
// (`Vcpu`, in vcpu_sys.h). Follows the kernel's Documentation/virt/kvm/api.rst.
//
// Debian 12's <linux/kvm.h> gives structs with flexible arrays a larger size in C++ than in C, so
// the ioctl numbers made from them are wrong (docs/building.md). The layouts and numbers that
// matter are therefore ours, in kvm_abi.h, with their sizes asserted.
//
// Threads: Kvm and Vm may be used from any thread; the order at start-up is the caller's.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "base/memory/guest_memory.h"
#include "vmm/kvm/kvm_abi.h"

#include <cstdint>

namespace mayfly::kvm {

class Vm;

/// The KVM device; borrows the descriptor.
class Kvm {
 public:
  /// Checks the API version and every capability the monitor needs; names the missing one.
  static Result<Kvm> create(FdRef device);

  FdRef device() const { return device_; }
  /// Bytes to map of a vCPU descriptor.
  uint32_t vcpu_map_size() const { return vcpu_map_size_; }
  /// What CPUID leaves KVM and this host can offer a guest.
  Result<CpuidTable> supported_cpuid() const;
  /// The MSRs that belong to a guest's state on this host.
  Result<MsrList> msr_list() const;
  /// One virtual machine, with nothing in it.
  Result<Vm> create_vm() const;

 private:
  explicit Kvm(FdRef device) : device_(device) {}

  FdRef device_;
  uint32_t vcpu_map_size_ = 0;
};

/// How many pins the IOAPIC in the monitor has: KVM reserves as many routes.
inline constexpr uint32_t kIoapicPins = 24;

class Vm {
 public:
  explicit Vm(Fd fd) : fd_(std::move(fd)) {}

  /// Tells KVM where guest RAM is. Before everything else: on Linux 6.18 a slot set after the
  /// interrupt controller costs milliseconds.
  Result<> set_memory(const GuestMemory& memory);

  /// Local APICs in the kernel, IOAPIC in the monitor, no PIC, no PIT.
  Result<> enable_split_irqchip();

  /// Creates vCPU `index`.
  Result<Fd> create_vcpu(uint32_t index);

  /// Injects a message-signalled interrupt. Any thread. A message the guest's APICs do not accept
  /// is dropped, as on a real bus.
  void signal_msi(uint64_t address, uint32_t data) const;

  /// From now on a 32-bit guest write of `value` to `address` signals `event` instead of leaving
  /// the guest.
  Result<> add_ioeventfd(FdRef event, Gpa address, uint32_t value);

  /// The guest's kvmclock, which goes on while the guest stands still.
  Result<kvm_clock_data> clock() const;
  /// The guest's kvmclock goes on from `clock_ns`.
  Result<> set_clock(uint64_t clock_ns);

  FdRef fd() const { return fd_.ref(); }

 private:
  Fd fd_;
};

}  // namespace mayfly::kvm
