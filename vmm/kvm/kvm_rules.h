// SPDX-License-Identifier: Apache-2.0
//
// The requests made of KVM. Compared over the 32 bits that the kernel looks at: request numbers
// with the top bit set reach it sign-extended or not, as the compiler likes.
#pragma once

#include "base/seccomp/rule.h"
#include "vmm/kvm/kvm_abi.h"

#include <array>

#include <asm/unistd.h>
#include <sys/mman.h>

namespace mayfly::kvm {

constexpr seccomp::Rule allow_request(unsigned long request, const char* reason) {
  return seccomp::allow(__NR_ioctl, reason, {seccomp::equals32(1, static_cast<uint32_t>(request))});
}

/// A vCPU's thread.
inline constexpr auto kRunRules = std::to_array<seccomp::Rule>({
    allow_request(KVM_RUN, "run guest code"),
    allow_request(KVM_IOEVENTFD, "a busy queue's kicks no longer leave the guest"),
});

/// Whoever raises interrupts: device code on the loop thread and on vCPU threads.
inline constexpr auto kInterruptRules = std::to_array<seccomp::Rule>({
    allow_request(KVM_SIGNAL_MSI, "interrupts leave the IOAPIC as messages"),
});

/// Building a machine.
inline constexpr auto kBuildRules = std::to_array<seccomp::Rule>({
    allow_request(kGetMsrIndexList, "which MSRs are a vCPU's state"),
    allow_request(KVM_GET_API_VERSION, "is the descriptor /dev/kvm?"),
    allow_request(KVM_CHECK_EXTENSION, "what this host's KVM can do"),
    allow_request(KVM_GET_VCPU_MMAP_SIZE, "the size of a vCPU's shared area"),
    allow_request(kGetSupportedCpuid, "what CPUID may show"),
    allow_request(KVM_CREATE_VM, "the machine"),
    allow_request(KVM_SET_USER_MEMORY_REGION, "its RAM"),
    allow_request(KVM_ENABLE_CAP, "its split irqchip"),
    allow_request(KVM_CREATE_VCPU, "its vCPUs"),
    allow_request(kSetCpuid2, "a vCPU's CPUID"),
    allow_request(KVM_GET_SREGS, "the boot vCPU's first state"),
    allow_request(KVM_SET_SREGS, "the boot vCPU's first state"),
    allow_request(KVM_SET_REGS, "the boot vCPU's first state"),
    seccomp::allow(
        __NR_mmap, "a vCPU's shared area; the console ring is mapped the same way",
        {seccomp::equals64(2, PROT_READ | PROT_WRITE), seccomp::equals64(3, MAP_SHARED)}),
});

/// Building a machine from a saved one.
inline constexpr auto kRestoreRules = std::to_array<seccomp::Rule>({
    allow_request(KVM_SET_MP_STATE, "a vCPU's state"),
    allow_request(KVM_SET_XCRS, "a vCPU's state"),
    allow_request(kSetXsave, "a vCPU's state"),
    allow_request(KVM_SET_DEBUGREGS, "a vCPU's state"),
    allow_request(KVM_SET_LAPIC, "a vCPU's state"),
    allow_request(kSetMsrs, "a vCPU's state"),
    allow_request(KVM_SET_VCPU_EVENTS, "a vCPU's state"),
    allow_request(KVM_SET_CLOCK, "kvmclock goes on from where it was"),
    allow_request(kSetSignalMask, "a parked vCPU is prepared up to its first guest instruction"),
});

/// Saving a machine. Nothing that changes one.
inline constexpr auto kSaveRules = std::to_array<seccomp::Rule>({
    allow_request(KVM_KVMCLOCK_CTRL, "the guest is told that it was paused"),
    allow_request(KVM_GET_MP_STATE, "a vCPU's state"),
    allow_request(KVM_GET_REGS, "a vCPU's state"),
    allow_request(KVM_GET_SREGS, "a vCPU's state"),
    allow_request(kGetXsave, "a vCPU's state"),
    allow_request(KVM_GET_XCRS, "a vCPU's state"),
    allow_request(KVM_GET_DEBUGREGS, "a vCPU's state"),
    allow_request(KVM_GET_LAPIC, "a vCPU's state"),
    allow_request(KVM_GET_VCPU_EVENTS, "a vCPU's state"),
    allow_request(kGetMsrs, "a vCPU's state; what an MSR has that cannot be written"),
    allow_request(kGetCpuid2, "what CPUID shows"),
    allow_request(KVM_GET_TSC_KHZ, "what the state needs of a host"),
    allow_request(KVM_GET_CLOCK, "the guest's kvmclock"),
});

}  // namespace mayfly::kvm
