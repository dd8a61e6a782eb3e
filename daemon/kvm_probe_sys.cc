// SPDX-License-Identifier: Apache-2.0
#include "daemon/kvm_probe_sys.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/fd.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

namespace mayfly::daemon {

namespace {

// The ioctl numbers carry the sizes: these are C's.
static_assert(sizeof(kvm_userspace_memory_region) == 32);
static_assert(sizeof(kvm_regs) == 144);
static_assert(sizeof(kvm_sregs) == 312);

constexpr uint64_t kPage = 4096;
constexpr uint64_t kCodeAt = kPage;  // Guest page 0 stays empty.
// The time of the short loop is taken from that of the long one: entering the guest is slow, too,
// where the machine is itself emulated.
constexpr uint32_t kShortLoops = 500;
constexpr uint32_t kLongLoops = 5000;
constexpr uint64_t kSuspectNs = 100 * 2 * kLongLoops;
constexpr int kMaxExits = 1000;

/// mov ecx, N (in a register already) / again: dec ecx / jnz again / hlt, in flat 32-bit code at
/// CPL 0.
constexpr std::array<unsigned char, 4> kCode = {0x49, 0x75, 0xfd, 0xf4};

class Mapping {
 public:
  Mapping(size_t bytes, FdRef fd)
      : bytes_(bytes),
        // SAFETY: a fresh mapping at no given address overlaps nothing; unmapped with this object.
        base_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                     fd.valid() ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd.number(), 0)) {}
  ~Mapping() {
    if (valid()) ::munmap(base_, bytes_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  bool valid() const { return base_ != MAP_FAILED; }
  void* base() const { return base_; }

 private:
  size_t bytes_;
  void* base_;
};

kvm_segment flat(uint16_t selector, uint8_t type) {
  kvm_segment segment = {};
  segment.limit = 0xffffffff;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.db = 1;
  segment.s = 1;
  segment.g = 1;
  return segment;
}

Result<> set_protected_mode(FdRef vcpu) {
  kvm_sregs sregs;
  if (::ioctl(vcpu.number(), KVM_GET_SREGS, &sregs) != 0) {
    return fail_errno({Code::kUnavailable, "KVM_PROBE"}, errno, "KVM_GET_SREGS");
  }
  sregs.cs = flat(8, 11);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(16, 3);
  sregs.cr0 |= 1;
  if (::ioctl(vcpu.number(), KVM_SET_SREGS, &sregs) != 0) {
    return fail_errno({Code::kUnavailable, "KVM_PROBE"}, errno, "KVM_SET_SREGS");
  }
  return {};
}

/// Runs the loop `count` times and gives the time it took.
Result<uint64_t> time_loop(FdRef vcpu, const kvm_run& run, uint32_t count) {
  kvm_regs regs = {};
  regs.rip = kCodeAt;
  regs.rcx = count;
  regs.rflags = 2;
  if (::ioctl(vcpu.number(), KVM_SET_REGS, &regs) != 0) {
    return fail_errno({Code::kUnavailable, "KVM_PROBE"}, errno, "KVM_SET_REGS");
  }
  const uint64_t before = monotonic_ns();
  for (int i = 0; i < kMaxExits; ++i) {
    if (::ioctl(vcpu.number(), KVM_RUN, 0) != 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      return fail_errno({Code::kUnavailable, "KVM_PROBE"}, errno, "KVM_RUN");
    }
    if (run.exit_reason == KVM_EXIT_HLT) return monotonic_ns() - before;
    if (run.exit_reason != KVM_EXIT_INTR) break;
  }
  return fail({Code::kUnavailable, "KVM_PROBE"}, "unexpected exit %u from the probe's VM",
              run.exit_reason);
}

Result<double> measure(FdRef kvm) {
  const Fd vm(::ioctl(kvm.number(), KVM_CREATE_VM, 0));
  if (!vm.valid()) return fail_errno({Code::kUnavailable, "KVM_PROBE"}, errno, "KVM_CREATE_VM");
  const Mapping memory(kPage, FdRef());
  if (!memory.valid()) return fail_errno({Code::kResourceExhausted, "KVM_PROBE"}, errno, "mmap");
  std::memcpy(memory.base(), kCode.data(), kCode.size());
  kvm_userspace_memory_region region = {};
  region.guest_phys_addr = kCodeAt;
  region.memory_size = kPage;
  // SAFETY: the mapping outlives the VM's last run; both end with this function.
  region.userspace_addr = reinterpret_cast<uint64_t>(memory.base());
  if (::ioctl(vm.number(), KVM_SET_USER_MEMORY_REGION, &region) != 0) {
    return fail_errno({Code::kUnavailable, "KVM_PROBE"}, errno, "KVM_SET_USER_MEMORY_REGION");
  }
  const Fd vcpu(::ioctl(vm.number(), KVM_CREATE_VCPU, 0));
  if (!vcpu.valid()) return fail_errno({Code::kUnavailable, "KVM_PROBE"}, errno, "KVM_CREATE_VCPU");
  const int run_bytes = ::ioctl(kvm.number(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (run_bytes < static_cast<int>(sizeof(kvm_run))) {
    return fail({Code::kUnavailable, "KVM_PROBE"}, "KVM_GET_VCPU_MMAP_SIZE says %d", run_bytes);
  }
  const Mapping run(static_cast<size_t>(run_bytes), vcpu.ref());
  if (!run.valid()) return fail_errno({Code::kResourceExhausted, "KVM_PROBE"}, errno, "mmap");
  TRY(set_protected_mode(vcpu.ref()));
  // SAFETY: the mapping is at least sizeof(kvm_run) bytes, page-aligned, and the kernel fills it.
  const kvm_run& state = *static_cast<const kvm_run*>(run.base());
  TRY(time_loop(vcpu.ref(), state, kShortLoops));  // The first entry pays for page faults.
  uint64_t short_ns = TRY(time_loop(vcpu.ref(), state, kShortLoops));
  uint64_t long_ns = TRY(time_loop(vcpu.ref(), state, kLongLoops));
  // A busy host may have taken the CPU away meanwhile; more tries tell that from emulation.
  for (int i = 0; i < 2 && long_ns > kSuspectNs; ++i) {
    short_ns = std::min(short_ns, TRY(time_loop(vcpu.ref(), state, kShortLoops)));
    long_ns = std::min(long_ns, TRY(time_loop(vcpu.ref(), state, kLongLoops)));
  }
  const uint64_t spent_ns = long_ns > short_ns ? long_ns - short_ns : 0;
  return static_cast<double>(spent_ns) / (2.0 * (kLongLoops - kShortLoops));
}

}  // namespace

KvmProbe probe_kvm(const std::string& device) {
  KvmProbe probe;
  auto kvm = Fd::open(device.c_str(), O_RDWR);
  if (!kvm) {
    probe.failure = kvm.error().message();
    return probe;
  }
  probe.opened = true;
  probe.api_version = ::ioctl(kvm->number(), KVM_GET_API_VERSION, 0);
  if (probe.api_version != KVM_API_VERSION) {
    probe.failure =
        format("%s speaks KVM API %d, not %d", device.c_str(), probe.api_version, KVM_API_VERSION);
    return probe;
  }
  auto measured = measure(kvm->ref());
  if (measured) {
    probe.ns_per_instruction = *measured;
  } else {
    probe.failure = measured.error().message();
  }
  return probe;
}

}  // namespace mayfly::daemon
