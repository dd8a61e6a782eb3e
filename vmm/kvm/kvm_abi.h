// SPDX-License-Identifier: Apache-2.0
//
// KVM structures whose flexible array makes the header's C++ size differ from its C size, with the
// array's bound made explicit, and the ioctl numbers that carry those sizes.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include <linux/kvm.h>

namespace mayfly::kvm {

/// KVM_GET_SUPPORTED_CPUID, KVM_SET_CPUID2, KVM_GET_CPUID2.
struct CpuidTable {
  static constexpr uint32_t kMaxEntries = 256;

  uint32_t count = 0;
  uint32_t padding = 0;
  std::array<kvm_cpuid_entry2, kMaxEntries> entries = {};

  std::span<kvm_cpuid_entry2> used() { return std::span(entries).first(count); }
  std::span<const kvm_cpuid_entry2> used() const { return std::span(entries).first(count); }
  /// Zeroes where there is none.
  kvm_cpuid_entry2 find(uint32_t function, uint32_t index = 0) const {
    for (const kvm_cpuid_entry2& entry : used()) {
      if (entry.function == function && entry.index == index) return entry;
    }
    return {};
  }
};
static_assert(sizeof(kvm_cpuid_entry2) == 40);
static_assert(offsetof(CpuidTable, entries) == 8);

/// KVM_GET_MSR_INDEX_LIST.
struct MsrList {
  static constexpr uint32_t kMaxEntries = 512;

  uint32_t count = 0;
  std::array<uint32_t, kMaxEntries> indices = {};

  std::span<const uint32_t> used() const { return std::span(indices).first(count); }
};
static_assert(offsetof(MsrList, indices) == 4);

/// KVM_GET_MSRS, KVM_SET_MSRS.
struct MsrTable {
  static constexpr uint32_t kMaxEntries = MsrList::kMaxEntries;

  uint32_t count = 0;
  uint32_t padding = 0;
  std::array<kvm_msr_entry, kMaxEntries> entries = {};
};
static_assert(sizeof(kvm_msr_entry) == 16);
static_assert(offsetof(MsrTable, entries) == 8);

/// KVM_GET_XSAVE, KVM_SET_XSAVE.
struct XsaveArea {
  std::array<uint32_t, 1024> region = {};
};
static_assert(sizeof(XsaveArea) == 4096);

/// KVM_SET_SIGNAL_MASK: which signals are blocked in KVM_RUN; the kernel's own set of 64.
struct SignalMask {
  uint32_t size = sizeof(signals);
  std::array<uint8_t, 8> signals = {};
};
static_assert(sizeof(SignalMask) == 12);

inline constexpr unsigned long kSetSignalMask = _IOC(_IOC_WRITE, KVMIO, 0x8b, 4);
inline constexpr unsigned long kGetSupportedCpuid = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x05, 8);
inline constexpr unsigned long kSetCpuid2 = _IOC(_IOC_WRITE, KVMIO, 0x90, 8);
inline constexpr unsigned long kGetCpuid2 = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x91, 8);
inline constexpr unsigned long kGetMsrIndexList = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x02, 4);
inline constexpr unsigned long kGetMsrs = _IOC(_IOC_READ | _IOC_WRITE, KVMIO, 0x88, 8);
inline constexpr unsigned long kSetMsrs = _IOC(_IOC_WRITE, KVMIO, 0x89, 8);
inline constexpr unsigned long kGetXsave = _IOC(_IOC_READ, KVMIO, 0xa4, 4096);
inline constexpr unsigned long kSetXsave = _IOC(_IOC_WRITE, KVMIO, 0xa5, 4096);

}  // namespace mayfly::kvm
