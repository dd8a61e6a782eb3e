// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/vcpu_sys.h"

#include <algorithm>
#include <cerrno>
#include <span>
#include <utility>

#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

namespace mayfly::kvm {
namespace {

constexpr uint32_t kMsrTsc = 0x10;
constexpr uint32_t kMsrTscDeadline = 0x6e0;

// SAFETY (every ioctl here): as in kvm_sys.cc.
template <typename Argument>
Result<> set(FdRef fd, unsigned long request, const Argument& argument, const char* what) {
  if (::ioctl(fd.number(), request, &argument) != 0) {
    return fail_errno({Code::kFailedPrecondition, "KVM_VCPU_STATE"}, errno, "kvm: set vCPU %s",
                      what);
  }
  return {};
}

template <typename Argument>
Result<> get(FdRef fd, unsigned long request, Argument& argument, const char* what) {
  if (::ioctl(fd.number(), request, &argument) != 0) {
    return fail_errno({Code::kFailedPrecondition, "KVM_VCPU_STATE"}, errno, "kvm: get vCPU %s",
                      what);
  }
  return {};
}

// As it is now; nothing where it cannot be read.
std::optional<uint64_t> get_msr(FdRef fd, uint32_t index) {
  MsrTable one;
  one.count = 1;
  one.entries[0].index = index;
  if (::ioctl(fd.number(), kGetMsrs, &one) != 1) return std::nullopt;
  return one.entries[0].data;
}

bool is_time(const kvm_msr_entry& msr) {
  return msr.index == kMsrTsc || msr.index == kMsrTscDeadline;
}

MsrTable one_msr(uint32_t index, uint64_t value) {
  MsrTable table;
  table.count = 1;
  table.entries[0].index = index;
  table.entries[0].data = value;
  return table;
}

}  // namespace

VcpuTime time_of(const VcpuState& state) {
  VcpuTime time{.lapic = state.lapic, .tsc = std::nullopt, .tsc_deadline = std::nullopt};
  const size_t count = std::min(state.msrs.count, MsrTable::kMaxEntries);
  for (const kvm_msr_entry& msr : std::span(state.msrs.entries).first(count)) {
    if (msr.index == kMsrTsc) time.tsc = msr.data;
    if (msr.index == kMsrTscDeadline && msr.data != 0) time.tsc_deadline = msr.data;
  }
  return time;
}

Result<Vcpu> Vcpu::create(const Kvm& kvm, Fd fd, uint32_t index) {
  Vcpu vcpu(std::move(fd), index);
  // SAFETY: the size is the one KVM asks for; unmapped by the destructor alone.
  void* mapped = ::mmap(nullptr, kvm.vcpu_map_size(), PROT_READ | PROT_WRITE, MAP_SHARED,
                        vcpu.fd_.number(), 0);
  if (mapped == MAP_FAILED) {
    return fail_errno({Code::kResourceExhausted, "KVM_VCPU_MAP"}, errno, "kvm: map vCPU %u", index);
  }
  vcpu.run_ = static_cast<kvm_run*>(mapped);
  vcpu.map_size_ = kvm.vcpu_map_size();
  return vcpu;
}

Vcpu::Vcpu(Vcpu&& other) noexcept
    : fd_(std::move(other.fd_)),
      index_(other.index_),
      run_(std::exchange(other.run_, nullptr)),
      map_size_(other.map_size_) {}

Vcpu::~Vcpu() {
  // SAFETY: mapped by create(); spans of the last exit do not outlive the vCPU.
  if (run_ != nullptr) ::munmap(run_, map_size_);
}

Result<> Vcpu::set_cpuid(const CpuidTable& table) {
  return set(fd_.ref(), kSetCpuid2, table, "CPUID");
}

Result<CpuidTable> Vcpu::cpuid() const {
  CpuidTable table;
  table.count = CpuidTable::kMaxEntries;
  TRY(get(fd_.ref(), kGetCpuid2, table, "CPUID"));
  CHECK(table.count <= CpuidTable::kMaxEntries);
  return table;
}

uint32_t Vcpu::tsc_khz() const {
  return static_cast<uint32_t>(std::max(::ioctl(fd_.number(), KVM_GET_TSC_KHZ, 0), 0));
}

void Vcpu::tell_pause() { ::ioctl(fd_.number(), KVM_KVMCLOCK_CTRL, 0); }

Exit Vcpu::run() {
  if (::ioctl(fd_.number(), KVM_RUN, 0) != 0) {
    if (errno == EINTR || errno == EAGAIN) return {.kind = ExitKind::kInterrupted};
    return {.kind = ExitKind::kError, .detail = static_cast<uint32_t>(errno)};
  }
  return decode();
}

// KVM looks for signals after all its preparations, right before it enters the guest. So one waits
// for it there, which only KVM_RUN lets through.
void Vcpu::warm_up() {
  sigset_t kick;
  sigset_t before;
  sigemptyset(&kick);
  sigaddset(&kick, kKickSignal);
  if (::pthread_sigmask(SIG_BLOCK, &kick, &before) != 0) return;
  ::pthread_kill(::pthread_self(), kKickSignal);
  const SignalMask none;
  // SAFETY: as above; without the mask the vCPU would run, so it must be there.
  if (::ioctl(fd_.number(), kSetSignalMask, &none) == 0) {
    ::ioctl(fd_.number(), KVM_RUN, 0);
    ::ioctl(fd_.number(), kSetSignalMask, nullptr);
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Exit Vcpu::decode() const {
  Exit exit;
  switch (run_->exit_reason) {
    case KVM_EXIT_IO: {
      exit.kind = ExitKind::kIo;
      exit.write = run_->io.direction == KVM_EXIT_IO_OUT;
      exit.port = run_->io.port;
      exit.width = run_->io.size;
      // SAFETY: KVM places the data inside the mapped area; the bound is checked all the same.
      const uint64_t size = uint64_t{run_->io.size} * run_->io.count;
      CHECK(size <= map_size_ && run_->io.data_offset <= map_size_ - size);
      exit.data = {reinterpret_cast<std::byte*>(run_) + run_->io.data_offset, size};
      return exit;
    }
    case KVM_EXIT_MMIO:
      exit.kind = ExitKind::kMmio;
      exit.write = run_->mmio.is_write != 0;
      exit.address = Gpa{run_->mmio.phys_addr};
      CHECK(run_->mmio.len <= sizeof(run_->mmio.data));
      exit.data = std::as_writable_bytes(std::span(run_->mmio.data)).first(run_->mmio.len);
      return exit;
    case KVM_EXIT_HLT:
      exit.kind = ExitKind::kHalt;
      return exit;
    case KVM_EXIT_SHUTDOWN:
      exit.kind = ExitKind::kShutdown;
      return exit;
    case KVM_EXIT_INTR:
      exit.kind = ExitKind::kInterrupted;
      return exit;
    case KVM_EXIT_IOAPIC_EOI:
      exit.kind = ExitKind::kIoapicEoi;
      return exit;
    case KVM_EXIT_SYSTEM_EVENT:
      exit.kind = ExitKind::kSystemEvent;
      exit.detail = run_->system_event.type;
      return exit;
    case KVM_EXIT_FAIL_ENTRY:
      exit.hardware_reason = run_->fail_entry.hardware_entry_failure_reason;
      break;
    case KVM_EXIT_INTERNAL_ERROR:
      exit.hardware_reason = run_->internal.suberror;
      break;
    default:
      break;
  }
  exit.kind = ExitKind::kError;
  exit.detail = run_->exit_reason;
  return exit;
}

void Vcpu::request_exit() { __atomic_store_n(&run_->immediate_exit, 1, __ATOMIC_RELEASE); }
void Vcpu::clear_exit_request() { __atomic_store_n(&run_->immediate_exit, 0, __ATOMIC_RELEASE); }

Result<kvm_regs> Vcpu::regs() const {
  kvm_regs regs;
  TRY(get(fd_.ref(), KVM_GET_REGS, regs, "registers"));
  return regs;
}

Result<> Vcpu::set_regs(const kvm_regs& regs) {
  return set(fd_.ref(), KVM_SET_REGS, regs, "registers");
}

Result<kvm_sregs> Vcpu::sregs() const {
  kvm_sregs sregs;
  TRY(get(fd_.ref(), KVM_GET_SREGS, sregs, "special registers"));
  return sregs;
}

Result<> Vcpu::set_sregs(const kvm_sregs& sregs) {
  return set(fd_.ref(), KVM_SET_SREGS, sregs, "special registers");
}

Result<VcpuState> Vcpu::save(const MsrList& list) const {
  VcpuState state;
  const FdRef fd = fd_.ref();
  // MP state first: asking for it completes what an exit left half done.
  TRY(get(fd, KVM_GET_MP_STATE, state.mp_state, "MP state"));
  TRY(get(fd, KVM_GET_REGS, state.regs, "registers"));
  TRY(get(fd, KVM_GET_SREGS, state.sregs, "special registers"));
  TRY(get(fd, kGetXsave, state.xsave, "XSAVE area"));
  TRY(get(fd, KVM_GET_XCRS, state.xcrs, "XCRs"));
  TRY(get(fd, KVM_GET_DEBUGREGS, state.debug_regs, "debug registers"));
  TRY(get(fd, KVM_GET_LAPIC, state.lapic, "local APIC"));
  TRY(get(fd, KVM_GET_VCPU_EVENTS, state.events, "events"));
  // KVM stops at the first MSR it cannot read: leave that one out and go on behind it.
  std::span<const uint32_t> left = list.used();
  while (!left.empty()) {
    MsrTable part;
    part.count = static_cast<uint32_t>(left.size());
    for (size_t i = 0; i < left.size(); ++i) part.entries[i].index = left[i];
    const int got = ::ioctl(fd.number(), kGetMsrs, &part);
    if (got < 0) {
      return fail_errno({Code::kFailedPrecondition, "KVM_VCPU_STATE"}, errno, "kvm: get vCPU MSRs");
    }
    const auto read = static_cast<size_t>(got);
    for (size_t i = 0; i < read; ++i) state.msrs.entries[state.msrs.count++] = part.entries[i];
    left = left.subspan(std::min(read + 1, left.size()));
  }
  return state;
}

Result<> Vcpu::restore(const VcpuState& state) {
  const FdRef fd = fd_.ref();
  TRY(set(fd, KVM_SET_MP_STATE, state.mp_state, "MP state"));
  TRY(set(fd, KVM_SET_REGS, state.regs, "registers"));
  TRY(set(fd, KVM_SET_SREGS, state.sregs, "special registers"));
  TRY(set(fd, KVM_SET_XCRS, state.xcrs, "XCRs"));
  TRY(set(fd, kSetXsave, state.xsave, "XSAVE area"));
  TRY(set(fd, KVM_SET_DEBUGREGS, state.debug_regs, "debug registers"));
  if (state.msrs.count > MsrTable::kMaxEntries) {
    return fail({Code::kDataLoss, "MSR_COUNT"}, "vCPU state: %u MSRs, the limit is %u",
                state.msrs.count, MsrTable::kMaxEntries);
  }
  MsrTable table;
  for (const kvm_msr_entry& msr : std::span(state.msrs.entries).first(state.msrs.count)) {
    if (!is_time(msr)) table.entries[table.count++] = msr;
  }
  TRY(set_msrs(table));
  return set(fd, KVM_SET_VCPU_EVENTS, state.events, "events");
}

// A deadline is compared with the TSC, which therefore goes first, and is taken only by a timer
// that the local APIC has in that mode.
Result<> Vcpu::restore_time(const VcpuTime& time) {
  if (time.tsc) {
    MsrTable tsc = one_msr(kMsrTsc, *time.tsc);
    TRY(set_msrs(tsc));
  }
  TRY(set(fd_.ref(), KVM_SET_LAPIC, time.lapic, "local APIC"));
  if (!time.tsc_deadline) return {};
  MsrTable deadline = one_msr(kMsrTscDeadline, *time.tsc_deadline);
  return set_msrs(deadline);
}

Result<> Vcpu::set_msrs(MsrTable& table) {
  while (table.count > 0) {
    // KVM stops at the first that it does not take, and says how many it took.
    const int taken = ::ioctl(fd_.number(), kSetMsrs, &table);
    if (taken < 0) {
      return fail_errno({Code::kFailedPrecondition, "KVM_VCPU_STATE"}, errno, "kvm: set vCPU MSRs");
    }
    if (static_cast<uint32_t>(taken) >= table.count) return {};
    const kvm_msr_entry& refused = table.entries[static_cast<size_t>(taken)];
    if (get_msr(fd_.ref(), refused.index) != refused.data) {
      return fail({Code::kFailedPrecondition, "KVM_MSR"},
                  "kvm: this host does not take MSR 0x%x = 0x%llx", refused.index,
                  static_cast<unsigned long long>(refused.data));
    }
    const auto rest = table.entries.begin() + taken + 1;
    std::copy(rest, table.entries.begin() + table.count, table.entries.begin());
    table.count -= static_cast<uint32_t>(taken) + 1;
  }
  return {};
}

void install_kick_signal() {
  struct sigaction action = {};
  action.sa_handler = [](int) {};
  sigemptyset(&action.sa_mask);
  ::sigaction(kKickSignal, &action, nullptr);
}

}  // namespace mayfly::kvm
