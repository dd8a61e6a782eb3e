// SPDX-License-Identifier: Apache-2.0
#include "daemon/host_description_sys.h"

#include "snapshot/manifest.h"
#include "vmm/kvm/cpuid_x86.h"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

// Intel SDM volume 2, CPUID; Documentation/virt/kvm/x86/cpuid.rst.
constexpr uint32_t kVendorLeaf = 0x0;
constexpr uint32_t kFeatureLeaf = 0x1;
constexpr uint32_t kXsaveLeaf = 0xd;
constexpr uint32_t kKvmFeatureLeaf = 0x4000'0001;
constexpr uint32_t kKvmClock = 1u << 0 | 1u << 3;  // KVM_FEATURE_CLOCKSOURCE, CLOCKSOURCE2

std::string vendor_of(const kvm::CpuidTable& table) {
  const kvm_cpuid_entry2 entry = table.find(kVendorLeaf);
  std::string vendor;
  for (const uint32_t word : {entry.ebx, entry.edx, entry.ecx}) {
    for (unsigned shift = 0; shift < 32; shift += 8) {
      const auto byte = static_cast<unsigned char>(word >> shift);
      vendor.push_back(byte >= 0x20 && byte < 0x7f ? static_cast<char>(byte) : '?');
    }
  }
  return vendor;
}

uint64_t xsave_features_of(const kvm::CpuidTable& table) {
  const kvm_cpuid_entry2 entry = table.find(kXsaveLeaf);
  return entry.eax | uint64_t{entry.edx} << 32;
}

bool has_kvm_clock(const kvm::CpuidTable& table) {
  return (table.find(kKvmFeatureLeaf).eax & kKvmClock) != 0;
}

std::unexpected<Error> failed(const char* what) {
  return fail_errno({Code::kFailedPrecondition, "KVM_MISSING"}, errno, "look at this host: %s",
                    what);
}

}  // namespace

Result<snapshot::HostDescription> describe_host(const std::string& kvm_device) {
  const Fd kvm(::open(kvm_device.c_str(), O_RDWR | O_CLOEXEC));
  if (!kvm.valid()) return failed(kvm_device.c_str());
  kvm::CpuidTable supported{.count = kvm::CpuidTable::kMaxEntries};
  // SAFETY: the kernel fills at most `count` entries, which is how many there are; the same below.
  if (::ioctl(kvm.number(), kvm::kGetSupportedCpuid, &supported) != 0)
    return failed("KVM_GET_SUPPORTED_CPUID");
  kvm::MsrList msrs{.count = kvm::MsrList::kMaxEntries};
  if (::ioctl(kvm.number(), kvm::kGetMsrIndexList, &msrs) != 0)
    return failed("KVM_GET_MSR_INDEX_LIST");
  const Fd vm(::ioctl(kvm.number(), KVM_CREATE_VM, 0));
  if (!vm.valid()) return failed("KVM_CREATE_VM");
  const Fd vcpu(::ioctl(vm.number(), KVM_CREATE_VCPU, 0));
  if (!vcpu.valid()) return failed("KVM_CREATE_VCPU");
  const int tsc_khz = ::ioctl(vcpu.number(), KVM_GET_TSC_KHZ, 0);
  // As it is read back, which is what a saved vCPU has: some KVMs add to what they are given.
  kvm::CpuidTable cpuid = kvm::cpuid_for(supported, 0, 1);
  // SAFETY: the kernel reads `count` entries, and then writes at most as many as there are.
  if (::ioctl(vcpu.number(), kvm::kSetCpuid2, &cpuid) != 0) return failed("KVM_SET_CPUID2");
  cpuid.count = kvm::CpuidTable::kMaxEntries;
  if (::ioctl(vcpu.number(), kvm::kGetCpuid2, &cpuid) != 0) return failed("KVM_GET_CPUID2");
  if (cpuid.count > kvm::CpuidTable::kMaxEntries || msrs.count > kvm::MsrList::kMaxEntries) {
    return fail({Code::kFailedPrecondition, "KVM_MISSING"},
                "look at this host: KVM says more CPUID entries or MSRs than there was room for");
  }
  return snapshot::HostDescription{
      .cpu_vendor = vendor_of(cpuid),
      .cpuid = cpuid,
      .msrs = {msrs.used().begin(), msrs.used().end()},
      .xsave_features = xsave_features_of(cpuid),
      .page_bytes = static_cast<uint32_t>(::sysconf(_SC_PAGESIZE)),
      .tsc_khz = tsc_khz > 0 ? static_cast<uint32_t>(tsc_khz) : 0,
      .can_scale_tsc = ::ioctl(kvm.number(), KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0,
      .kvm_clock = has_kvm_clock(cpuid)};
}

snapshot::HostRequirements requirements_of(const snapshot::MachineState& state, uint32_t tsc_khz) {
  const kvm::CpuidTable& cpuid = state.vcpus[0].cpuid;
  const uint32_t signature = cpuid.find(kFeatureLeaf).eax;
  const uint32_t family = signature >> 8 & 0xf;
  snapshot::HostRequirements needed{
      .cpu_vendor = vendor_of(cpuid),
      .cpu_family = family == 0xf ? family + (signature >> 20 & 0xff) : family,
      .cpu_model = (signature >> 4 & 0xf) | (signature >> 12 & 0xf0),
      .cpu_stepping = signature & 0xf,
      .cpuid = cpuid,
      .msrs = {},
      .xsave_features = xsave_features_of(cpuid),
      .page_bytes = snapshot::kPageBytes,
      .tsc_khz = tsc_khz,
      .kvm_clock = has_kvm_clock(cpuid)};
  for (const snapshot::Vcpu& vcpu : state.vcpus) {
    for (const kvm_msr_entry& msr :
         std::span(vcpu.state.msrs.entries).first(vcpu.state.msrs.count)) {
      if (std::ranges::find(needed.msrs, msr.index) == needed.msrs.end())
        needed.msrs.push_back(msr.index);
    }
  }
  return needed;
}

}  // namespace mayfly::daemon
