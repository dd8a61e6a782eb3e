// SPDX-License-Identifier: Apache-2.0
#include "snapshot/host.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>

namespace mayfly::snapshot {
namespace {

enum class Register : uint8_t { kEax, kEbx, kEcx, kEdx };
constexpr const char* kRegisterNames[] = {"EAX", "EBX", "ECX", "EDX"};

uint32_t value_of(const kvm_cpuid_entry2& entry, Register which) {
  switch (which) {
    case Register::kEax:
      return entry.eax;
    case Register::kEbx:
      return entry.ebx;
    case Register::kEcx:
      return entry.ecx;
    case Register::kEdx:
      return entry.edx;
  }
  return 0;
}

// The words of CPUID that are sets of features (Intel SDM volume 2, CPUID; AMD APM volume 3,
// appendix E; the kernel's Documentation/virt/kvm/x86/cpuid.rst). Other words are numbers, names
// and topology. `dynamic` bits mirror what the guest has switched on, or are there on every host.
struct FeatureWord {
  uint32_t function;
  uint32_t index;
  Register where;
  uint32_t dynamic;
};
constexpr uint32_t kOsxsave = 1u << 27, kHypervisor = 1u << 31, kApic = 1u << 9, kOspke = 1u << 4;
constexpr uint32_t kHtt = 1u << 28;
constexpr FeatureWord kFeatureWords[] = {
    {0x1, 0, Register::kEcx, kOsxsave | kHypervisor},
    {0x1, 0, Register::kEdx, kApic | kHtt},
    {0x7, 0, Register::kEbx, 0},
    {0x7, 0, Register::kEcx, kOspke},
    {0x7, 0, Register::kEdx, 0},
    {0x7, 1, Register::kEax, 0},
    {0x7, 1, Register::kEdx, 0},
    {0x7, 2, Register::kEdx, 0},
    {0xd, 1, Register::kEax, 0},
    {0x4000'0001, 0, Register::kEax, 0},
    {0x8000'0001, 0, Register::kEcx, 1u << 1},  // CMP_LEGACY: topology
    {0x8000'0001, 0, Register::kEdx, kApic},
    {0x8000'0007, 0, Register::kEdx, 0},
    {0x8000'0008, 0, Register::kEbx, 0},
    {0x8000'0021, 0, Register::kEax, 0},
};

// The features that most often tell hosts apart, by the names of /proc/cpuinfo.
struct FeatureName {
  uint32_t function;
  uint32_t index;
  Register where;
  uint8_t bit;
  const char* name;
};
constexpr FeatureName kFeatureNames[] = {
    {0x1, 0, Register::kEcx, 0, "pni"},
    {0x1, 0, Register::kEcx, 1, "pclmulqdq"},
    {0x1, 0, Register::kEcx, 9, "ssse3"},
    {0x1, 0, Register::kEcx, 12, "fma"},
    {0x1, 0, Register::kEcx, 13, "cx16"},
    {0x1, 0, Register::kEcx, 17, "pcid"},
    {0x1, 0, Register::kEcx, 19, "sse4_1"},
    {0x1, 0, Register::kEcx, 20, "sse4_2"},
    {0x1, 0, Register::kEcx, 21, "x2apic"},
    {0x1, 0, Register::kEcx, 22, "movbe"},
    {0x1, 0, Register::kEcx, 23, "popcnt"},
    {0x1, 0, Register::kEcx, 24, "tsc_deadline_timer"},
    {0x1, 0, Register::kEcx, 25, "aes"},
    {0x1, 0, Register::kEcx, 26, "xsave"},
    {0x1, 0, Register::kEcx, 28, "avx"},
    {0x1, 0, Register::kEcx, 29, "f16c"},
    {0x1, 0, Register::kEcx, 30, "rdrand"},
    {0x7, 0, Register::kEbx, 0, "fsgsbase"},
    {0x7, 0, Register::kEbx, 3, "bmi1"},
    {0x7, 0, Register::kEbx, 5, "avx2"},
    {0x7, 0, Register::kEbx, 7, "smep"},
    {0x7, 0, Register::kEbx, 8, "bmi2"},
    {0x7, 0, Register::kEbx, 9, "erms"},
    {0x7, 0, Register::kEbx, 10, "invpcid"},
    {0x7, 0, Register::kEbx, 16, "avx512f"},
    {0x7, 0, Register::kEbx, 17, "avx512dq"},
    {0x7, 0, Register::kEbx, 18, "rdseed"},
    {0x7, 0, Register::kEbx, 19, "adx"},
    {0x7, 0, Register::kEbx, 20, "smap"},
    {0x7, 0, Register::kEbx, 23, "clflushopt"},
    {0x7, 0, Register::kEbx, 24, "clwb"},
    {0x7, 0, Register::kEbx, 28, "avx512cd"},
    {0x7, 0, Register::kEbx, 29, "sha_ni"},
    {0x7, 0, Register::kEbx, 30, "avx512bw"},
    {0x7, 0, Register::kEbx, 31, "avx512vl"},
    {0x7, 0, Register::kEcx, 1, "avx512vbmi"},
    {0x7, 0, Register::kEcx, 2, "umip"},
    {0x7, 0, Register::kEcx, 3, "pku"},
    {0x7, 0, Register::kEcx, 8, "gfni"},
    {0x7, 0, Register::kEcx, 9, "vaes"},
    {0x7, 0, Register::kEcx, 10, "vpclmulqdq"},
    {0x7, 0, Register::kEcx, 11, "avx512_vnni"},
    {0x7, 0, Register::kEcx, 16, "la57"},
    {0x7, 0, Register::kEcx, 22, "rdpid"},
    {0x7, 0, Register::kEdx, 4, "fsrm"},
    {0x7, 0, Register::kEdx, 10, "md_clear"},
    {0x7, 0, Register::kEdx, 24, "amx_tile"},
    {0x7, 0, Register::kEdx, 26, "spec_ctrl"},
    {0x7, 0, Register::kEdx, 29, "arch_capabilities"},
    {0x7, 0, Register::kEdx, 31, "ssbd"},
    {0x7, 1, Register::kEax, 4, "avx_vnni"},
    {0x7, 1, Register::kEax, 5, "avx512_bf16"},
    {0xd, 1, Register::kEax, 0, "xsaveopt"},
    {0xd, 1, Register::kEax, 1, "xsavec"},
    {0xd, 1, Register::kEax, 3, "xsaves"},
    {0x4000'0001, 0, Register::kEax, 3, "kvm clocksource"},
    {0x4000'0001, 0, Register::kEax, 5, "kvm steal time"},
    {0x4000'0001, 0, Register::kEax, 6, "kvm pv eoi"},
    {0x4000'0001, 0, Register::kEax, 14, "kvm async pf int"},
    {0x4000'0001, 0, Register::kEax, 24, "kvm clocksource stable"},
    {0x8000'0001, 0, Register::kEcx, 0, "lahf_lm"},
    {0x8000'0001, 0, Register::kEcx, 5, "abm"},
    {0x8000'0001, 0, Register::kEcx, 6, "sse4a"},
    {0x8000'0001, 0, Register::kEdx, 20, "nx"},
    {0x8000'0001, 0, Register::kEdx, 26, "pdpe1gb"},
    {0x8000'0001, 0, Register::kEdx, 27, "rdtscp"},
    {0x8000'0001, 0, Register::kEdx, 29, "lm"},
    {0x8000'0007, 0, Register::kEdx, 8, "constant_tsc"},
    {0x8000'0008, 0, Register::kEbx, 0, "clzero"},
    {0x8000'0008, 0, Register::kEbx, 12, "ibpb"},
};

uint32_t word_of(const kvm::CpuidTable& table, const FeatureWord& word) {
  return value_of(table.find(word.function, word.index), word.where);
}

const char* name_of(const FeatureWord& word, unsigned bit) {
  for (const FeatureName& feature : kFeatureNames) {
    if (feature.function == word.function && feature.index == word.index &&
        feature.where == word.where && feature.bit == bit) {
      return feature.name;
    }
  }
  return "a feature";
}

std::unexpected<Error> unmet(const char* reason, const std::string& what) {
  return fail({Code::kFailedPrecondition, reason}, "%s", what.c_str());
}

Result<> check_features(const kvm::CpuidTable& needed, const kvm::CpuidTable& host) {
  for (const FeatureWord& word : kFeatureWords) {
    const uint32_t missing = word_of(needed, word) & ~word_of(host, word) & ~word.dynamic;
    if (missing == 0) continue;
    const auto bit = static_cast<unsigned>(std::countr_zero(missing));
    return fail({Code::kFailedPrecondition, "CPU_FEATURE"},
                "the guest uses %s (CPUID 0x%x.%u %s bit %u), which this host does not have",
                name_of(word, bit), word.function, word.index,
                kRegisterNames[static_cast<size_t>(word.where)], bit);
  }
  return {};
}

// As far apart as KVM takes for the same rate (its tsc_tolerance_ppm).
bool same_rate(uint32_t a, uint32_t b) {
  constexpr uint64_t kTolerancePpm = 250;
  const auto apart = static_cast<uint64_t>(std::abs(int64_t{a} - int64_t{b}));
  return apart * 1'000'000 <= kTolerancePpm * a;
}

}  // namespace

Result<> check_host(const HostRequirements& needed, const HostDescription& host) {
  if (needed.cpu_vendor != host.cpu_vendor) {
    return unmet("CPU_VENDOR", "the snapshot is of a " + needed.cpu_vendor +
                                   " CPU, this host's is " + host.cpu_vendor);
  }
  if (needed.page_bytes != host.page_bytes) {
    return fail({Code::kFailedPrecondition, "PAGE_SIZE"},
                "the snapshot is of a host with pages of %u bytes, this host's are of %u",
                needed.page_bytes, host.page_bytes);
  }
  TRY(check_features(needed.cpuid, host.cpuid));
  if (const uint64_t missing = needed.xsave_features & ~host.xsave_features; missing != 0) {
    return fail({Code::kFailedPrecondition, "XSAVE_FEATURE"},
                "the guest uses XCR0 bit %d, which this host does not have",
                std::countr_zero(missing));
  }
  for (const uint32_t msr : needed.msrs) {
    if (std::ranges::find(host.msrs, msr) == host.msrs.end()) {
      return fail({Code::kFailedPrecondition, "MSR"},
                  "the snapshot has MSR 0x%x, which this host's KVM does not", msr);
    }
  }
  if (needed.tsc_khz != 0 && !host.can_scale_tsc && !same_rate(needed.tsc_khz, host.tsc_khz)) {
    return fail({Code::kFailedPrecondition, "TSC_FREQUENCY"},
                "the guest's TSC runs at %u kHz, this host's at %u, and this CPU cannot scale it",
                needed.tsc_khz, host.tsc_khz);
  }
  if (needed.kvm_clock && !host.kvm_clock) {
    return unmet("KVM_CLOCK", "the guest uses kvmclock, which this host does not offer");
  }
  return {};
}

}  // namespace mayfly::snapshot
