// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/cpu_start_x86.h"

#include "vmm/boot/layout.h"

namespace mayfly::boot {
namespace {

constexpr uint64_t kCr0ProtectedMode = 1 << 0;
constexpr uint64_t kCr0ExtensionType = 1 << 4;
constexpr uint64_t kCr0Paging = 1u << 31;
constexpr uint64_t kCr4Pae = 1 << 5;
constexpr uint64_t kEferLongModeEnable = 1 << 8;
constexpr uint64_t kEferLongModeActive = 1 << 10;
constexpr uint64_t kRflagsReserved = 1 << 1;

// Linux's boot protocol wants __BOOT_CS = 0x10 and __BOOT_DS = 0x18.
constexpr uint16_t kCodeSelector = 0x10;
constexpr uint16_t kDataSelector = 0x18;
constexpr uint16_t kTaskSelector = 0x20;
constexpr uint8_t kCodeType = 0xb;  // execute, read, accessed
constexpr uint8_t kDataType = 0x3;  // read, write, accessed
constexpr uint8_t kTaskType = 0xb;  // busy 32-bit or 64-bit TSS

constexpr uint64_t kPageSize = 4096;
constexpr uint64_t kEntriesPerTable = 512;
constexpr uint64_t kPresentWritable = 0x3;
constexpr uint64_t kLargePage = 0x80;
constexpr uint64_t kMappedGib = 4;

kvm_segment segment(uint16_t selector, uint8_t type, bool long_mode) {
  kvm_segment result = {};
  result.base = 0;
  result.limit = 0xffff'ffff;
  result.selector = selector;
  result.type = type;
  result.present = 1;
  result.s = 1;
  result.g = 1;
  result.l = long_mode ? 1 : 0;
  result.db = long_mode ? 0 : 1;
  return result;
}

uint64_t descriptor(const kvm_segment& s) {
  const uint64_t limit = s.g ? s.limit >> 12 : s.limit;
  return (limit & 0xffff) | (s.base & 0xff'ffff) << 16 | uint64_t{s.type} << 40 |
         uint64_t{s.s} << 44 | uint64_t{s.dpl} << 45 | uint64_t{s.present} << 47 |
         (limit >> 16 & 0xf) << 48 | uint64_t{s.l} << 53 | uint64_t{s.db} << 54 |
         uint64_t{s.g} << 55 | (s.base >> 24 & 0xff) << 56;
}

void set_segments(kvm_sregs& sregs, bool long_mode) {
  sregs.cs = segment(kCodeSelector, kCodeType, long_mode);
  sregs.ds = segment(kDataSelector, kDataType, false);
  sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
  sregs.tr = {};
  sregs.tr.limit = 0x67;
  sregs.tr.selector = kTaskSelector;
  sregs.tr.type = kTaskType;
  sregs.tr.present = 1;
}

// The first 4 GiB, identity-mapped in 2 MiB pages.
Result<> write_page_tables(const GuestMemory& memory) {
  const GuestSpan tables = TRY(memory.view({kPageTables, (2 + kMappedGib) * kPageSize}));
  const uint64_t pointers = kPageTables.value + kPageSize;
  const uint64_t directories = pointers + kPageSize;
  tables.store<uint64_t>(0, pointers | kPresentWritable);
  for (uint64_t gib = 0; gib < kMappedGib; ++gib) {
    tables.store<uint64_t>(kPageSize + gib * 8, (directories + gib * kPageSize) | kPresentWritable);
  }
  for (uint64_t i = 0; i < kMappedGib * kEntriesPerTable; ++i) {
    tables.store<uint64_t>(2 * kPageSize + i * 8, i << 21 | kPresentWritable | kLargePage);
  }
  return {};
}

Result<> enter_long_mode(const GuestMemory& memory, kvm_sregs& sregs) {
  TRY(write_page_tables(memory));
  const uint64_t gdt[] = {0, 0, descriptor(sregs.cs), descriptor(sregs.ds)};
  TRY(memory.view({kGdt, sizeof(gdt)})).store(0, gdt);
  sregs.gdt.base = kGdt.value;
  sregs.gdt.limit = sizeof(gdt) - 1;
  sregs.cr3 = kPageTables.value;
  sregs.cr4 |= kCr4Pae;
  sregs.cr0 |= kCr0Paging;
  sregs.efer |= kEferLongModeEnable | kEferLongModeActive;
  return {};
}

}  // namespace

Result<> set_entry_state(const GuestMemory& memory, kvm::Vcpu& vcpu, const Entry& entry) {
  const bool long_mode = entry.protocol == Protocol::kLinux64;
  kvm_sregs sregs = TRY(vcpu.sregs());
  set_segments(sregs, long_mode);
  sregs.cr0 = kCr0ProtectedMode | kCr0ExtensionType;
  sregs.idt = {};
  if (long_mode) TRY(enter_long_mode(memory, sregs));
  TRY(vcpu.set_sregs(sregs));

  kvm_regs regs = {};
  regs.rip = entry.address.value;
  regs.rflags = kRflagsReserved;
  if (long_mode) {
    regs.rsi = kZeroPage.value;
  } else {
    regs.rbx = kStartInfo.value;
  }
  return vcpu.set_regs(regs);
}

}  // namespace mayfly::boot
