// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/kvm_sys.h"

#include <cerrno>

#include <sys/ioctl.h>

namespace mayfly::kvm {
namespace {

struct Capability {
  int number;
  const char* name;
};

constexpr Capability kRequired[] = {
    {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"},
    {KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP"},
    {KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI"},
    {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
    {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
    {KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID"},
    {KVM_CAP_XSAVE, "KVM_CAP_XSAVE"},
    {KVM_CAP_XCRS, "KVM_CAP_XCRS"},
    {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},
    {KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS"},
    {KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS"},
    {KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK"},
};

// SAFETY (every ioctl here): the request's struct is the one its number was made from, lives on the
// caller's stack for the whole call, and the arrays it counts are inside it.
template <typename Argument>
int call(FdRef fd, unsigned long request, Argument argument) {
  int status = 0;
  do {
    status = ::ioctl(fd.number(), request, argument);
  } while (status < 0 && errno == EINTR);
  return status;
}

}  // namespace

Result<Kvm> Kvm::create(FdRef device) {
  const int version = call(device, KVM_GET_API_VERSION, 0);
  if (version != KVM_API_VERSION) {
    return fail({Code::kFailedPrecondition, "KVM_API"},
                "kvm: API version is %d, %d is needed; is the descriptor /dev/kvm?", version,
                KVM_API_VERSION);
  }
  for (const Capability& capability : kRequired) {
    if (call(device, KVM_CHECK_EXTENSION, capability.number) <= 0) {
      return fail({Code::kFailedPrecondition, "KVM_CAPABILITY"}, "kvm: this host lacks %s",
                  capability.name);
    }
  }
  Kvm kvm(device);
  const int map_size = call(device, KVM_GET_VCPU_MMAP_SIZE, 0);
  if (map_size < static_cast<int>(sizeof(kvm_run))) {
    return fail_errno({Code::kFailedPrecondition, "KVM_API"}, errno, "kvm: vCPU map size is %d",
                      map_size);
  }
  kvm.vcpu_map_size_ = static_cast<uint32_t>(map_size);
  return kvm;
}

Result<CpuidTable> Kvm::supported_cpuid() const {
  CpuidTable table;
  table.count = CpuidTable::kMaxEntries;
  if (call(device_, kGetSupportedCpuid, &table) != 0) {
    return fail_errno({Code::kFailedPrecondition, "KVM_CPUID"}, errno,
                      "kvm: KVM_GET_SUPPORTED_CPUID with room for %u entries",
                      CpuidTable::kMaxEntries);
  }
  CHECK(table.count <= CpuidTable::kMaxEntries);
  return table;
}

Result<MsrList> Kvm::msr_list() const {
  MsrList list;
  list.count = MsrList::kMaxEntries;
  if (call(device_, kGetMsrIndexList, &list) != 0) {
    return fail_errno({Code::kFailedPrecondition, "KVM_MSR_LIST"}, errno,
                      "kvm: KVM_GET_MSR_INDEX_LIST with room for %u entries", MsrList::kMaxEntries);
  }
  CHECK(list.count <= MsrList::kMaxEntries);
  return list;
}

Result<Vm> Kvm::create_vm() const {
  const int fd = call(device_, KVM_CREATE_VM, 0);
  if (fd < 0) {
    return fail_errno({Code::kResourceExhausted, "KVM_CREATE_VM"}, errno, "kvm: KVM_CREATE_VM");
  }
  return Vm(Fd(fd));
}

Result<> Vm::set_memory(const GuestMemory& memory) {
  uint32_t slot = 0;
  for (const GuestMemory::Region& region : memory.regions()) {
    kvm_userspace_memory_region request = {
        .slot = slot++,
        .flags = 0,
        .guest_phys_addr = region.start.value,
        .memory_size = region.size,
        .userspace_addr = region.host_address,
    };
    if (call(fd_.ref(), KVM_SET_USER_MEMORY_REGION, &request) != 0) {
      return fail_errno({Code::kResourceExhausted, "KVM_MEMORY"}, errno,
                        "kvm: memory slot of %llu bytes at 0x%llx",
                        static_cast<unsigned long long>(region.size),
                        static_cast<unsigned long long>(region.start.value));
    }
  }
  return {};
}

Result<> Vm::enable_split_irqchip() {
  kvm_enable_cap request = {};
  request.cap = KVM_CAP_SPLIT_IRQCHIP;
  request.args[0] = kIoapicPins;
  if (call(fd_.ref(), KVM_ENABLE_CAP, &request) != 0) {
    return fail_errno({Code::kFailedPrecondition, "KVM_IRQCHIP"}, errno,
                      "kvm: split irqchip with %u pins", kIoapicPins);
  }
  return {};
}

Result<Fd> Vm::create_vcpu(uint32_t index) {
  const int fd = call(fd_.ref(), KVM_CREATE_VCPU, static_cast<unsigned long>(index));
  if (fd < 0) {
    return fail_errno({Code::kResourceExhausted, "KVM_CREATE_VCPU"}, errno, "kvm: create vCPU %u",
                      index);
  }
  return Fd(fd);
}

void Vm::signal_msi(uint64_t address, uint32_t data) const {
  kvm_msi message = {};
  message.address_lo = static_cast<uint32_t>(address);
  message.address_hi = static_cast<uint32_t>(address >> 32);
  message.data = data;
  call(fd_.ref(), KVM_SIGNAL_MSI, &message);
}

Result<kvm_clock_data> Vm::clock() const {
  kvm_clock_data data = {};
  if (call(fd_.ref(), KVM_GET_CLOCK, &data) != 0) {
    return fail_errno({Code::kFailedPrecondition, "KVM_CLOCK"}, errno, "kvm: KVM_GET_CLOCK");
  }
  return data;
}

Result<> Vm::set_clock(uint64_t clock_ns) {
  kvm_clock_data data = {};
  data.clock = clock_ns;
  if (call(fd_.ref(), KVM_SET_CLOCK, &data) != 0) {
    return fail_errno({Code::kFailedPrecondition, "KVM_CLOCK"}, errno, "kvm: KVM_SET_CLOCK %llu ns",
                      static_cast<unsigned long long>(clock_ns));
  }
  return {};
}

Result<> Vm::add_ioeventfd(FdRef event, Gpa address, uint32_t value) {
  kvm_ioeventfd request = {};
  request.datamatch = value;
  request.addr = address.value;
  request.len = sizeof(value);
  request.fd = event.number();
  request.flags = KVM_IOEVENTFD_FLAG_DATAMATCH;
  if (call(fd_.ref(), KVM_IOEVENTFD, &request) != 0) {
    return fail_errno({Code::kResourceExhausted, "KVM_IOEVENTFD"}, errno,
                      "kvm: ioeventfd at 0x%llx", static_cast<unsigned long long>(address.value));
  }
  return {};
}

}  // namespace mayfly::kvm
