// SPDX-License-Identifier: Apache-2.0
#include "tests/perf/floor_vm_sys.h"

#include "base/fd.h"

#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

namespace mayfly::perf {
namespace {

constexpr uint64_t kCodeAddress = 0x1000;
constexpr uint16_t kPort = 0x600;
// mov $0x600, %dx; out %al, (%dx); hlt
constexpr uint8_t kCode[] = {0xba, 0x00, 0x06, 0xee, 0xf4};
constexpr uint64_t kDeviceBase = 0xd0000000;
constexpr uint32_t kDevices = 2;

// SAFETY of every call here: the KVM ABI; `argument` is the structure that the request names, or
// its value.
template <typename Argument>
Result<int> call(FdRef fd, unsigned long request, const char* name, Argument argument) {
  const int result = ::ioctl(fd.number(), request, argument);
  if (result < 0) return fail_errno({Code::kUnavailable, "KVM"}, errno, "%s", name);
  return result;
}

struct Vm {
  Fd vm;
  Fd vcpu;
  kvm_run* run = nullptr;
  uint8_t* memory = nullptr;
};

Result<> add_memory(Vm& vm, uint64_t size) {
  // SAFETY: a new anonymous mapping, never unmapped: the process ends with the VM.
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return fail_errno({Code::kResourceExhausted, "MMAP"}, errno, "mmap");
  vm.memory = static_cast<uint8_t*>(memory);
  kvm_userspace_memory_region region{};
  region.memory_size = size;
  // SAFETY: the mapping outlives the VM.
  region.userspace_addr = reinterpret_cast<uint64_t>(memory);
  TRY(call(vm.vm.ref(), KVM_SET_USER_MEMORY_REGION, "KVM_SET_USER_MEMORY_REGION", &region));
  std::memcpy(vm.memory + kCodeAddress, kCode, sizeof(kCode));
  return {};
}

Result<> add_split_irqchip(Vm& vm) {
  kvm_enable_cap cap{};
  cap.cap = KVM_CAP_SPLIT_IRQCHIP;
  cap.args[0] = 24;
  TRY(call(vm.vm.ref(), KVM_ENABLE_CAP, "KVM_CAP_SPLIT_IRQCHIP", &cap));
  return {};
}

Result<> add_full_irqchip(Vm& vm) {
  TRY(call(vm.vm.ref(), KVM_CREATE_IRQCHIP, "KVM_CREATE_IRQCHIP", 0));
  kvm_pit_config pit{};
  pit.flags = KVM_PIT_SPEAKER_DUMMY;
  TRY(call(vm.vm.ref(), KVM_CREATE_PIT2, "KVM_CREATE_PIT2", &pit));
  return {};
}

Result<> add_devices(Vm& vm) {
  for (uint32_t i = 0; i < kDevices; ++i) {
    kvm_ioeventfd kick{};
    kick.addr = kDeviceBase + i * 0x1000 + 0x50;
    kick.len = 4;
    kick.fd = TRY(Fd::event()).release();
    TRY(call(vm.vm.ref(), KVM_IOEVENTFD, "KVM_IOEVENTFD", &kick));
    kvm_irqfd interrupt{};
    interrupt.fd = static_cast<uint32_t>(TRY(Fd::event()).release());
    interrupt.gsi = 5 + i;
    TRY(call(vm.vm.ref(), KVM_IRQFD, "KVM_IRQFD", &interrupt));
  }
  return {};
}

Result<> add_vcpu(Vm& vm, FdRef kvm) {
  vm.vcpu = Fd(TRY(call(vm.vm.ref(), KVM_CREATE_VCPU, "KVM_CREATE_VCPU", 0)));
  const int size = TRY(call(kvm, KVM_GET_VCPU_MMAP_SIZE, "KVM_GET_VCPU_MMAP_SIZE", 0));
  // SAFETY: the vCPU's shared page, of the size KVM says.
  void* run = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE, MAP_SHARED,
                     vm.vcpu.number(), 0);
  if (run == MAP_FAILED)
    return fail_errno({Code::kResourceExhausted, "MMAP"}, errno, "mmap of a vCPU");
  vm.run = static_cast<kvm_run*>(run);
  return {};
}

Result<> run(Vm& vm) {
  kvm_sregs sregs{};
  TRY(call(vm.vcpu.ref(), KVM_GET_SREGS, "KVM_GET_SREGS", &sregs));
  sregs.cs.base = 0;
  sregs.cs.selector = 0;
  TRY(call(vm.vcpu.ref(), KVM_SET_SREGS, "KVM_SET_SREGS", &sregs));
  kvm_regs regs{};
  regs.rip = kCodeAddress;
  regs.rflags = 2;
  TRY(call(vm.vcpu.ref(), KVM_SET_REGS, "KVM_SET_REGS", &regs));
  TRY(call(vm.vcpu.ref(), KVM_RUN, "KVM_RUN", 0));
  if (vm.run->exit_reason != KVM_EXIT_IO || vm.run->io.port != kPort) {
    return fail({Code::kInternal, "KVM_EXIT"}, "the guest's first exit has reason %u",
                vm.run->exit_reason);
  }
  return {};
}

}  // namespace

Result<> run_floor_vm(IoctlOrder order, uint64_t memory_bytes) {
  const Fd kvm = TRY(Fd::open("/dev/kvm", O_RDWR));
  Vm vm;
  vm.vm = Fd(TRY(call(kvm.ref(), KVM_CREATE_VM, "KVM_CREATE_VM", 0)));
  if (order == IoctlOrder::kFloor) {
    TRY(add_memory(vm, memory_bytes));
    TRY(add_split_irqchip(vm));
    TRY(add_vcpu(vm, kvm.ref()));
  } else {
    TRY(add_full_irqchip(vm));
    TRY(add_vcpu(vm, kvm.ref()));
    TRY(add_memory(vm, memory_bytes));
    TRY(add_devices(vm));
  }
  return run(vm);
}

}  // namespace mayfly::perf
