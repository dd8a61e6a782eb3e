// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/cpuid_x86.h"

#include <algorithm>
#include <bit>

namespace mayfly::kvm {
namespace {

// Leaf numbers: Intel SDM volume 2, CPUID; AMD APM volume 3, appendix E.
constexpr uint32_t kFeatures = 0x1;
constexpr uint32_t kCacheParameters = 0x4;
constexpr uint32_t kPerfMonitoring = 0xa;
constexpr uint32_t kTopology = 0xb;
constexpr uint32_t kTopologyV2 = 0x1f;
constexpr uint32_t kAmdFeatures = 0x8000'0001;
constexpr uint32_t kAmdCacheTopology = 0x8000'001d;
constexpr uint32_t kAmdSizes = 0x8000'0008;
constexpr uint32_t kAmdTopology = 0x8000'001e;

constexpr uint32_t kFeatureHtt = 1u << 28;          // leaf 1 EDX
constexpr uint32_t kFeatureHypervisor = 1u << 31;   // leaf 1 ECX
constexpr uint32_t kFeatureTscDeadline = 1u << 24;  // leaf 1 ECX
constexpr uint32_t kFeatureCmpLegacy = 1u << 1;     // leaf 0x80000001 ECX
constexpr uint32_t kLevelSmt = 1;
constexpr uint32_t kLevelCore = 2;

uint32_t replace_bits(uint32_t value, unsigned shift, unsigned width, uint32_t bits) {
  const uint32_t mask = ((1u << width) - 1) << shift;
  return (value & ~mask) | ((bits << shift) & mask);
}

// Sub-leaf 0: one thread a core; 1: the socket's cores; further ones end the list.
void set_topology_level(kvm_cpuid_entry2& entry, uint32_t index, uint32_t count, uint32_t bits) {
  entry.eax = entry.index == 0 ? 0 : entry.index == 1 ? bits : 0;
  entry.ebx = entry.index == 0 ? 1 : entry.index == 1 ? count : 0;
  const uint32_t type = entry.index == 0 ? kLevelSmt : entry.index == 1 ? kLevelCore : 0;
  entry.ecx = entry.index | type << 8;
  entry.edx = index;
}

void set_features(kvm_cpuid_entry2& entry, uint32_t index, uint32_t count) {
  entry.ebx = replace_bits(entry.ebx, 24, 8, index);
  entry.ebx = replace_bits(entry.ebx, 16, 8, std::bit_ceil(count));
  entry.ecx |= kFeatureHypervisor | kFeatureTscDeadline;
  entry.edx = count > 1 ? entry.edx | kFeatureHtt : entry.edx & ~kFeatureHtt;
}

void set_cache_sharing(kvm_cpuid_entry2& entry, uint32_t count, bool intel) {
  const uint32_t level = (entry.eax >> 5) & 7;
  if ((entry.eax & 0x1f) == 0) return;
  const uint32_t sharing = level >= 3 ? std::bit_ceil(count) : 1;
  entry.eax = replace_bits(entry.eax, 14, 12, sharing - 1);
  if (intel) entry.eax = replace_bits(entry.eax, 26, 6, std::bit_ceil(count) - 1);
}

bool is_topology(const kvm_cpuid_entry2& entry) {
  return entry.function == kTopology || entry.function == kTopologyV2;
}

// KVM lists the host's topology sub-leaves; the guest gets its own three.
void replace_topology(CpuidTable& table, uint32_t index, uint32_t count, uint32_t bits) {
  const bool had_v2 = std::ranges::any_of(
      table.used(), [](const auto& entry) { return entry.function == kTopologyV2; });
  const auto used = table.used();
  const auto kept = std::remove_if(used.begin(), used.end(), is_topology);
  table.count = static_cast<uint32_t>(kept - used.begin());
  for (const uint32_t function : {kTopology, kTopologyV2}) {
    if (function == kTopologyV2 && !had_v2) continue;
    for (uint32_t sub = 0; sub < 3 && table.count < CpuidTable::kMaxEntries; ++sub) {
      kvm_cpuid_entry2& entry = table.entries[table.count++];
      entry = {};
      entry.function = function;
      entry.index = sub;
      entry.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
      set_topology_level(entry, index, count, bits);
    }
  }
}

}  // namespace

CpuidTable cpuid_for(const CpuidTable& supported, uint32_t index, uint32_t vcpu_count) {
  CpuidTable table = supported;
  const auto bits = static_cast<uint32_t>(std::bit_width(vcpu_count - 1));
  for (kvm_cpuid_entry2& entry : table.used()) {
    switch (entry.function) {
      case kFeatures:
        set_features(entry, index, vcpu_count);
        break;
      case kCacheParameters:
        set_cache_sharing(entry, vcpu_count, true);
        break;
      case kAmdCacheTopology:
        set_cache_sharing(entry, vcpu_count, false);
        break;
      case kPerfMonitoring:
        // No performance counters: their MSRs are not part of a guest's state here.
        entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
        break;
      case kAmdFeatures:
        entry.ecx = vcpu_count > 1 ? entry.ecx | kFeatureCmpLegacy : entry.ecx & ~kFeatureCmpLegacy;
        break;
      case kAmdSizes:
        entry.ecx = replace_bits(entry.ecx, 0, 8, vcpu_count - 1);
        entry.ecx = replace_bits(entry.ecx, 12, 4, bits);
        break;
      case kAmdTopology:
        // One thread a core, one node.
        entry.eax = index;
        entry.ebx = index & 0xff;
        entry.ecx = 0;
        break;
      default:
        break;
    }
  }
  replace_topology(table, index, vcpu_count, bits);
  return table;
}

}  // namespace mayfly::kvm
