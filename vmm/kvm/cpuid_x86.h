// SPDX-License-Identifier: Apache-2.0
//
// The CPUID leaves one vCPU shows its guest: what KVM supports on this host, with the topology of a
// single socket of `vcpu_count` cores. Pure; any thread.
#pragma once

#include "vmm/kvm/kvm_abi.h"

#include <cstdint>

namespace mayfly::kvm {

/// The most vCPUs a guest may have. APIC ids equal vCPU numbers.
inline constexpr uint32_t kMaxVcpus = 32;

/// `supported` is Kvm::supported_cpuid(); `index` < `vcpu_count` <= kMaxVcpus.
CpuidTable cpuid_for(const CpuidTable& supported, uint32_t index, uint32_t vcpu_count);

}  // namespace mayfly::kvm
