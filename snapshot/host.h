// SPDX-License-Identifier: Apache-2.0
//
// What a snapshot asks of the host that restores it, and whether a host has it.
#pragma once

#include "base/error.h"
#include "vmm/kvm/kvm_abi.h"

#include <cstdint>
#include <string>
#include <vector>

namespace mayfly::snapshot {

inline constexpr size_t kMaxMsrs = kvm::MsrList::kMaxEntries;
/// "GenuineIntel", "AuthenticAMD".
inline constexpr size_t kVendorSize = 12;

/// Taken where the snapshot was made; untrusted where it is read.
struct HostRequirements {
  std::string cpu_vendor;
  // For people.
  uint32_t cpu_family = 0;
  uint32_t cpu_model = 0;
  uint32_t cpu_stepping = 0;
  /// What vCPU 0 was shown.
  kvm::CpuidTable cpuid;
  std::vector<uint32_t> msrs;
  /// XCR0 bits.
  uint64_t xsave_features = 0;
  uint32_t page_bytes = 0;
  uint32_t tsc_khz = 0;
  bool kvm_clock = false;
};

/// The host at hand.
struct HostDescription {
  std::string cpu_vendor;
  /// What this host would show vCPU 0 of a new machine (kvm::cpuid_for()).
  kvm::CpuidTable cpuid;
  std::vector<uint32_t> msrs;
  uint64_t xsave_features = 0;
  uint32_t page_bytes = 0;
  uint32_t tsc_khz = 0;
  /// KVM_CAP_TSC_CONTROL: the guest's TSC may run at another rate than the host's.
  bool can_scale_tsc = false;
  bool kvm_clock = false;
};

/// kFailedPrecondition, with the first thing that is missing: CPU_VENDOR, PAGE_SIZE, CPU_FEATURE,
/// XSAVE_FEATURE, MSR, TSC_FREQUENCY, KVM_CLOCK.
Result<> check_host(const HostRequirements& needed, const HostDescription& host);

}  // namespace mayfly::snapshot
