// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/kernel.h"

#include "vmm/boot/layout.h"

#include <doctest/doctest.h>

#include <cstring>
#include <vector>

#include <asm/bootparam.h>
#include <elf.h>
#include <unistd.h>

namespace mayfly::boot {
namespace {

constexpr uint64_t kMiB = 1024 * 1024;
using Bytes = std::vector<char>;

GuestMemory make_memory(uint64_t size = 32 * kMiB) {
  const Fd memfd = *Fd::memfd("ram", size);
  return *GuestMemory::create(memfd.ref(), size);
}

Fd make_file(const Bytes& bytes) {
  Fd file = *Fd::memfd("image", 0);
  REQUIRE(write_all(file.ref(), std::as_bytes(std::span(bytes))).has_value());
  return file;
}

template <typename T>
void put(Bytes& bytes, size_t at, const T& value) {
  if (bytes.size() < at + sizeof(value)) bytes.resize(at + sizeof(value));
  std::memcpy(bytes.data() + at, &value, sizeof(value));
}

struct ElfParts {
  Elf64_Ehdr header = {};
  Elf64_Phdr load = {};
  Elf64_Phdr note = {};
  uint32_t entry = 0x10'0010;
};

ElfParts elf_parts() {
  ElfParts parts;
  std::memcpy(parts.header.e_ident, ELFMAG, SELFMAG);
  parts.header.e_ident[EI_CLASS] = ELFCLASS64;
  parts.header.e_machine = EM_X86_64;
  parts.header.e_phoff = sizeof(Elf64_Ehdr);
  parts.header.e_phentsize = sizeof(Elf64_Phdr);
  parts.header.e_phnum = 2;
  parts.load = {PT_LOAD, 5, 0x1000, 0, 0x10'0000, 0x100, 0x2000, 0x1000};
  parts.note = {PT_NOTE, 4, 0x800, 0, 0, 20, 20, 4};
  return parts;
}

Fd make_elf(const ElfParts& parts) {
  Bytes bytes(0x1100, 'K');
  put(bytes, 0, parts.header);
  put(bytes, sizeof(Elf64_Ehdr), parts.load);
  put(bytes, sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr), parts.note);
  const Elf64_Nhdr note{4, 4, 18};
  put(bytes, 0x800, note);
  std::memcpy(bytes.data() + 0x800 + sizeof(note), "Xen", 4);
  put(bytes, 0x800 + sizeof(note) + 4, parts.entry);
  return make_file(bytes);
}

std::string load_reason(const Fd& kernel, uint64_t memory_size = 32 * kMiB) {
  const GuestMemory memory = make_memory(memory_size);
  const auto result = load_kernel(memory, {kernel.ref(), {}, "quiet"});
  return result ? "" : result.error().reason();
}

TEST_CASE("an ELF image is loaded at its physical address and entered by its PVH note") {
  const GuestMemory memory = make_memory();
  const Fd kernel = make_elf(elf_parts());
  const Bytes initrd_bytes(5000, 'I');
  const Fd initrd = make_file(initrd_bytes);
  const FdRef initrds[] = {initrd.ref(), initrd.ref()};
  const auto entry = load_kernel(memory, {kernel.ref(), initrds, "quiet"});
  REQUIRE(entry.has_value());
  CHECK_EQ(entry->protocol, Protocol::kPvh);
  CHECK_EQ(entry->address.value, 0x10'0010);
  CHECK_EQ(memory.view({Gpa{0x10'0000}, 1})->load<char>(0), 'K');
  CHECK_EQ(memory.view({Gpa{0x10'0100}, 1})->load<char>(0), 0);
  CHECK_EQ(memory.view({kCommandLine, 6})->load<char>(4), 't');
  // Two initrds, the second from the next multiple of four.
  const uint64_t start = memory.view({kModuleList, 16})->load<uint64_t>(0);
  CHECK_EQ(memory.view({kModuleList, 16})->load<uint64_t>(8), 10000);
  CHECK_EQ(memory.view({Gpa{start + 9999}, 1})->load<char>(0), 'I');
}

TEST_CASE("kernels that are not one are refused with a reason each") {
  CHECK_EQ(load_reason(make_file({})), "KERNEL_EMPTY");
  CHECK_EQ(load_reason(make_file(Bytes(8, 'x'))), "IMAGE_TRUNCATED");
  CHECK_EQ(load_reason(make_file(Bytes(4096, 'x'))), "KERNEL_FORMAT");
  ElfParts arm = elf_parts();
  arm.header.e_machine = EM_AARCH64;
  CHECK_EQ(load_reason(make_elf(arm)), "KERNEL_ARCHITECTURE");
  ElfParts no_headers = elf_parts();
  no_headers.header.e_phnum = 0;
  CHECK_EQ(load_reason(make_elf(no_headers)), "KERNEL_ELF");
  ElfParts no_note = elf_parts();
  no_note.note.p_type = PT_NULL;
  CHECK_EQ(load_reason(make_elf(no_note)), "KERNEL_NO_PVH");
}

TEST_CASE("ELF headers that point outside the file or outside RAM are refused") {
  ElfParts file_end = elf_parts();
  file_end.load.p_filesz = 0x2000;
  CHECK_EQ(load_reason(make_elf(file_end)), "IMAGE_TRUNCATED");
  ElfParts offset_wraps = elf_parts();
  offset_wraps.load.p_offset = ~uint64_t{0} - 16;
  CHECK_EQ(load_reason(make_elf(offset_wraps)), "IMAGE_TRUNCATED");
  ElfParts phoff = elf_parts();
  phoff.header.e_phoff = ~uint64_t{0} - 100;
  CHECK_EQ(load_reason(make_elf(phoff)), "IMAGE_TRUNCATED");
  ElfParts memory_end = elf_parts();
  memory_end.load.p_memsz = 64 * kMiB;
  CHECK_EQ(load_reason(make_elf(memory_end)), "KERNEL_OUTSIDE_MEMORY");
  ElfParts wraps = elf_parts();
  wraps.load.p_paddr = ~uint64_t{0} - 16;
  CHECK_EQ(load_reason(make_elf(wraps)), "KERNEL_OUTSIDE_MEMORY");
  ElfParts too_low = elf_parts();
  too_low.load.p_paddr = 0x7000;
  CHECK_EQ(load_reason(make_elf(too_low)), "KERNEL_OUTSIDE_MEMORY");
  ElfParts more_file_than_memory = elf_parts();
  more_file_than_memory.load.p_memsz = 1;
  CHECK_EQ(load_reason(make_elf(more_file_than_memory)), "KERNEL_ELF");
  ElfParts entry = elf_parts();
  entry.entry = 0x7000;
  CHECK_EQ(load_reason(make_elf(entry)), "KERNEL_ENTRY");
}

Bytes make_bzimage() {
  Bytes bytes(64 * 1024, 'B');
  setup_header header = {};
  header.setup_sects = 4;
  header.boot_flag = 0xaa55;
  header.header = 0x5372'6448;
  header.version = 0x020f;
  header.jump = 0x6aeb;
  header.xloadflags = 1;
  header.pref_address = 0x100'0000;
  header.init_size = 8 * kMiB;
  header.initrd_addr_max = 0x7fff'ffff;
  header.syssize = (64 * 1024 - 5 * 512) / 16;
  put(bytes, 0x1f1, header);
  return bytes;
}

TEST_CASE("a bzImage is loaded where it prefers, with a zero page that describes the guest") {
  const GuestMemory memory = make_memory();
  const Fd kernel = make_file(make_bzimage());
  const auto entry = load_kernel(memory, {kernel.ref(), {}, "quiet"});
  REQUIRE(entry.has_value());
  CHECK_EQ(entry->protocol, Protocol::kLinux64);
  CHECK_EQ(entry->address.value, 0x100'0200);
  CHECK_EQ(memory.view({Gpa{0x100'0000}, 1})->load<char>(0), 'B');
  const auto page = memory.view({kZeroPage, 4096})->load<boot_params>(0);
  CHECK_EQ(page.hdr.cmd_line_ptr, kCommandLine.value);
  CHECK_EQ(page.acpi_rsdp_addr, kAcpiTables.value);
  CHECK_EQ(page.e820_entries, 3);
}

TEST_CASE("a bzImage that is cut short, too old, or larger than RAM is refused") {
  Bytes cut = make_bzimage();
  cut.resize(32 * 1024);
  CHECK_EQ(load_reason(make_file(cut)), "IMAGE_TRUNCATED");
  Bytes setup_only = make_bzimage();
  setup_only.resize(1024);
  CHECK_EQ(load_reason(make_file(setup_only)), "IMAGE_TRUNCATED");
  Bytes old = make_bzimage();
  put<uint16_t>(old, 0x206, 0x0204);
  CHECK_EQ(load_reason(make_file(old)), "KERNEL_ARCHITECTURE");
  CHECK_EQ(load_reason(make_file(make_bzimage()), 16 * kMiB), "KERNEL_OUTSIDE_MEMORY");
}

TEST_CASE("an initrd that does not fit, or is empty, is refused") {
  const GuestMemory memory = make_memory(4 * kMiB);
  const Fd kernel = make_elf(elf_parts());
  const Fd large = *Fd::memfd("initrd", uint64_t{1} << 40);
  const FdRef too_large[] = {large.ref(), large.ref()};
  CHECK_EQ(load_kernel(memory, {kernel.ref(), too_large, ""}).error().reason(), "INITRD_TOO_LARGE");
  const Fd nothing = *Fd::memfd("initrd", 0);
  const FdRef empty[] = {nothing.ref()};
  CHECK_EQ(load_kernel(memory, {kernel.ref(), empty, ""}).error().reason(), "INITRD_EMPTY");
}

TEST_CASE("a command line over the kernel's limit is refused with both numbers") {
  const GuestMemory memory = make_memory();
  const Fd kernel = make_elf(elf_parts());
  CHECK(load_kernel(memory, {kernel.ref(), {}, std::string(2047, 'a')}).has_value());
  const auto result = load_kernel(memory, {kernel.ref(), {}, std::string(2048, 'a')});
  REQUIRE_FALSE(result.has_value());
  CHECK_EQ(result.error().message(), "cmdline: 2048 bytes are over the kernel's limit of 2047");
}

}  // namespace
}  // namespace mayfly::boot
