// SPDX-License-Identifier: Apache-2.0
//
// The KVM device is the one thing a monitor must use: what it needs to build a machine is taken
// away once that is built, the rest from the start.
#include "tests/security/attempt.h"

#include <cerrno>

#include <linux/kvm.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::escape {
namespace {

Outcome request(const char* name, int descriptor, unsigned long number, const void* argument) {
  if (descriptor < 0) return missing("no virtual machine");
  const long result = ::syscall(SYS_ioctl, descriptor, number, argument);
  // A request that is understood and found wanting has reached the code behind the filter.
  if (result < 0 && (errno == EINVAL || errno == ENXIO || errno == EEXIST || errno == ENOENT)) {
    return escaped();
  }
  return judge(name, result);
}

Outcome second_machine(World&) { return request("KVM_CREATE_VM", kKvm, KVM_CREATE_VM, nullptr); }
Outcome ask_kvm(World&) {
  return request("KVM_GET_API_VERSION", kKvm, KVM_GET_API_VERSION, nullptr);
}
Outcome list_msrs(World&) {
  kvm_msr_list list = {};
  const Outcome outcome =
      request("KVM_GET_MSR_INDEX_LIST", kKvm, _IOWR(KVMIO, 0x02, uint32_t), &list);
  return outcome.os_errno == E2BIG ? escaped() : outcome;
}

Outcome other_memory(World& world) {
  const long page =
      ::syscall(SYS_mmap, nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, kMemory, 0);
  if (page == -1) return judge("mmap", -1);
  kvm_userspace_memory_region region = {};
  region.slot = 1;
  region.guest_phys_addr = 0x1'0000'0000;
  region.memory_size = 4096;
  region.userspace_addr = static_cast<uint64_t>(page);
  return request("KVM_SET_USER_MEMORY_REGION", world.vm, KVM_SET_USER_MEMORY_REGION, &region);
}
// The memory that is mapped already: the monitor's own stack in the guest's sight.
Outcome own_stack_as_guest_memory(World& world) {
  alignas(4096) char page[8192];
  kvm_userspace_memory_region region = {};
  region.slot = 1;
  region.guest_phys_addr = 0x1'0000'0000;
  region.memory_size = 4096;
  // SAFETY: an address for the kernel.
  region.userspace_addr = reinterpret_cast<uint64_t>(page);
  return request("KVM_SET_USER_MEMORY_REGION", world.vm, KVM_SET_USER_MEMORY_REGION, &region);
}
Outcome another_vcpu(World& world) {
  // SAFETY: an index where the interface has a pointer.
  return request("KVM_CREATE_VCPU", world.vm, KVM_CREATE_VCPU, reinterpret_cast<void*>(1));
}
Outcome pass_device_through(World& world) {
  kvm_create_device device = {};
  device.type = KVM_DEV_TYPE_VFIO;
  const Outcome outcome = request("KVM_CREATE_DEVICE", world.vm, KVM_CREATE_DEVICE, &device);
  // Without VFIO in the kernel the request has come as far.
  return outcome.os_errno == ENODEV ? escaped() : outcome;
}
Outcome interrupt_by_descriptor(World& world) {
  kvm_irqfd irqfd = {};
  irqfd.fd = static_cast<uint32_t>(kDisk);
  return request("KVM_IRQFD", world.vm, KVM_IRQFD, &irqfd);
}
Outcome route_interrupts(World& world) {
  const kvm_irq_routing routing = {};
  return request("KVM_SET_GSI_ROUTING", world.vm, _IOW(KVMIO, 0x6a, uint64_t), &routing);
}
Outcome log_dirty_pages(World& world) {
  kvm_dirty_log log = {};
  return request("KVM_GET_DIRTY_LOG", world.vm, KVM_GET_DIRTY_LOG, &log);
}
Outcome trap_msrs(World& world) {
  const kvm_msr_filter filter = {};
  return request("KVM_X86_SET_MSR_FILTER", world.vm, KVM_X86_SET_MSR_FILTER, &filter);
}
Outcome legacy_devices(World& world) {
  const kvm_pit_config config = {};
  return request("KVM_CREATE_PIT2", world.vm, KVM_CREATE_PIT2, &config);
}
Outcome set_registers(World& world) {
  kvm_regs registers = {};
  registers.rflags = 2;
  return request("KVM_SET_REGS", world.vcpu, KVM_SET_REGS, &registers);
}
Outcome set_msrs(World& world) {
  const struct {
    uint32_t count = 1;
    uint32_t padding = 0;
    kvm_msr_entry entry = {.index = 0x10, .reserved = 0, .data = 0};
  } msrs;
  return request("KVM_SET_MSRS", world.vcpu, _IOW(KVMIO, 0x89, uint64_t), &msrs);
}
Outcome debug_guest(World& world) {
  const kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE, .pad = 0, .arch = {}};
  return request("KVM_SET_GUEST_DEBUG", world.vcpu, KVM_SET_GUEST_DEBUG, &debug);
}

constexpr Attempt kAttempts[] = {
    {"second-machine", "a machine that nobody limits", kSeccomp | kBeforeRun, second_machine},
    {"ask-kvm", "KVM's own requests once a machine runs", kSeccomp | kBeforeRun, ask_kvm},
    {"list-msrs", "which registers the CPU has", kSeccomp | kBeforeRun, list_msrs},
    {"other-memory", "memory that was not the guest's", kSeccomp | kBeforeRun, other_memory},
    {"own-stack-as-guest-memory", "code of its own, in the guest", kSeccomp | kBeforeRun,
     own_stack_as_guest_memory},
    {"another-vcpu", "more vCPUs than asked for", kSeccomp | kBeforeRun, another_vcpu},
    {"pass-device-through", "a device of the host", kSeccomp, pass_device_through},
    {"interrupt-by-descriptor", "the kernel's irqfd code", kSeccomp, interrupt_by_descriptor},
    {"route-interrupts", "the kernel's routing code", kSeccomp, route_interrupts},
    {"log-dirty-pages", "the kernel's logging code", kSeccomp, log_dirty_pages},
    {"trap-msrs", "the kernel's MSR filters", kSeccomp, trap_msrs},
    {"legacy-devices", "emulated devices in the kernel", kSeccomp, legacy_devices},
    {"set-registers", "a guest that runs elsewhere", kSeccomp | kBeforeRun, set_registers},
    {"set-msrs", "MSRs of its choice", kSeccomp | kBeforeRun, set_msrs},
    {"debug-guest", "the kernel's debugging code", kSeccomp, debug_guest},
};

}  // namespace

std::span<const Attempt> kvm_attempts() { return kAttempts; }

}  // namespace mayfly::escape
