// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/kernel.h"

#include "vmm/boot/image_file.h"
#include "vmm/boot/layout.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <vector>

#include <asm/bootparam.h>
#include <elf.h>

namespace mayfly::boot {
namespace {

constexpr uint64_t kPageSize = 4096;
constexpr uint64_t kInitrdAlign = 4;
constexpr uint8_t kLoaderUndefined = 0xff;
constexpr uint8_t kLoadedHigh = 1 << 0;

// Xen's public/arch-x86/hvm/start_info.h.
struct StartInfo {
  uint32_t magic;
  uint32_t version;
  uint32_t flags;
  uint32_t module_count;
  uint64_t module_list;
  uint64_t command_line;
  uint64_t rsdp;
  uint64_t memory_map;
  uint32_t memory_map_entries;
  uint32_t reserved;
};
static_assert(sizeof(StartInfo) == 56);
constexpr uint32_t kStartInfoMagic = 0x336e'c578;

struct ModuleEntry {
  uint64_t address;
  uint64_t size;
  uint64_t command_line;
  uint64_t reserved;
};
static_assert(sizeof(ModuleEntry) == 32);

struct MemoryMapEntry {
  uint64_t address;
  uint64_t size;
  uint32_t type;
  uint32_t reserved;
};
static_assert(sizeof(MemoryMapEntry) == 24);

constexpr uint64_t kMaxInitrdBytes = uint64_t{1} << 60;

constexpr uint32_t kRam = 1;
constexpr uint32_t kReserved = 2;

std::vector<MemoryMapEntry> memory_map(const GuestMemory& memory) {
  std::vector<MemoryMapEntry> map = {
      {0, kBaseMemoryEnd.value, kRam, 0},
      {kAcpiTables.value, kAcpiTablesSize, kReserved, 0},
  };
  for (const GuestMemory::Region& region : memory.regions()) {
    const uint64_t start = std::max(region.start.value, kKernelFloor.value);
    map.push_back({start, region.start.value + region.size - start, kRam, 0});
  }
  return map;
}

// At the top of low RAM, so that the kernel has room to grow.
Result<GuestRange> load_initrds(const GuestMemory& memory, std::span<const FdRef> files,
                                const LoadedKernel& kernel) {
  std::vector<uint64_t> sizes;
  uint64_t total = 0;
  for (const FdRef file : files) {
    const uint64_t size = TRY(file_size(file));
    if (size == 0) {
      return fail({Code::kInvalidArgument, "INITRD_EMPTY"}, "initrd: the file is empty");
    }
    // Clamped, so that no sum overflows; no guest has the room for it.
    sizes.push_back(std::min(size, kMaxInitrdBytes));
    total += (sizes.back() + kInitrdAlign - 1) & ~(kInitrdAlign - 1);
  }
  if (total == 0) return GuestRange{};
  const uint64_t top = std::min(memory.regions()[0].size, kernel.initrd_limit.value);
  const uint64_t floor = kernel.end.value <= top ? kernel.end.value : kKernelFloor.value;
  if (top < floor || top - floor < total + kPageSize) {
    return fail({Code::kInvalidArgument, "INITRD_TOO_LARGE"},
                "initrd: %llu bytes do not fit between the kernel's end at 0x%llx and 0x%llx; give "
                "the guest more memory",
                static_cast<unsigned long long>(total), static_cast<unsigned long long>(floor),
                static_cast<unsigned long long>(top));
  }
  const uint64_t start = (top - total) & ~(kPageSize - 1);
  uint64_t at = start;
  for (size_t i = 0; i < files.size(); ++i) {
    TRY(read_into(files[i], TRY(memory.view({Gpa{at}, sizes[i]})), 0));
    at += (sizes[i] + kInitrdAlign - 1) & ~(kInitrdAlign - 1);
  }
  return GuestRange{Gpa{start}, at - start};
}

Result<> write_start_info(const GuestMemory& memory, const GuestRange& initrd) {
  const std::vector<MemoryMapEntry> map = memory_map(memory);
  TRY(memory.view({kMemoryMap, map.size() * sizeof(MemoryMapEntry)}))
      .write(0, std::as_bytes(std::span(map)));
  TRY(memory.view({kModuleList, sizeof(ModuleEntry)}))
      .store(0, ModuleEntry{initrd.start.value, initrd.size, 0, 0});
  StartInfo info = {};
  info.magic = kStartInfoMagic;
  info.version = 1;
  info.module_count = initrd.size == 0 ? 0 : 1;
  info.module_list = kModuleList.value;
  info.command_line = kCommandLine.value;
  info.rsdp = kAcpiTables.value;
  info.memory_map = kMemoryMap.value;
  info.memory_map_entries = static_cast<uint32_t>(map.size());
  TRY(memory.view({kStartInfo, sizeof(info)})).store(0, info);
  return {};
}

Result<> write_zero_page(const GuestMemory& memory, const LoadedKernel& kernel,
                         const GuestRange& initrd) {
  boot_params page = {};
  static_assert(sizeof(page) == 4096);
  std::memcpy(&page.hdr, kernel.setup_header.data(), kernel.setup_header.size());
  page.hdr.type_of_loader = kLoaderUndefined;
  page.hdr.loadflags |= kLoadedHigh;
  page.hdr.cmd_line_ptr = static_cast<uint32_t>(kCommandLine.value);
  page.hdr.ramdisk_image = static_cast<uint32_t>(initrd.start.value);
  page.hdr.ramdisk_size = static_cast<uint32_t>(initrd.size);
  page.acpi_rsdp_addr = kAcpiTables.value;
  for (const MemoryMapEntry& entry : memory_map(memory)) {
    page.e820_table[page.e820_entries++] = {entry.address, entry.size, entry.type};
  }
  TRY(memory.view({kZeroPage, sizeof(page)})).store(0, page);
  return {};
}

Result<> write_command_line(const GuestMemory& memory, const std::string& text) {
  if (text.size() >= kCommandLineSize) {
    return fail({Code::kInvalidArgument, "CMDLINE_TOO_LONG"},
                "cmdline: %zu bytes are over the kernel's limit of %llu", text.size(),
                static_cast<unsigned long long>(kCommandLineSize - 1));
  }
  const GuestSpan span = TRY(memory.view({kCommandLine, kCommandLineSize}));
  span.write(0, std::as_bytes(std::span(text)));
  span.store<char>(text.size(), '\0');
  return {};
}

Result<LoadedKernel> load_image(const GuestMemory& memory, FdRef file) {
  if (TRY(file_size(file)) == 0) {
    return fail({Code::kInvalidArgument, "KERNEL_EMPTY"}, "kernel: the file is empty");
  }
  std::array<char, SELFMAG> magic = {};
  TRY(read_image(file, std::as_writable_bytes(std::span(magic)), 0));
  return std::memcmp(magic.data(), ELFMAG, SELFMAG) == 0 ? load_elf(memory, file)
                                                         : load_bzimage(memory, file);
}

}  // namespace

Result<Entry> load_kernel(const GuestMemory& memory, const KernelFiles& files) {
  Result<LoadedKernel> kernel = load_image(memory, files.kernel);
  if (!kernel) {
    const bool named = kernel.error().message().starts_with("kernel");
    return std::unexpected(named ? std::move(kernel).error()
                                 : std::move(kernel).error().with_context("kernel"));
  }
  const GuestRange initrd = TRY(load_initrds(memory, files.initrds, *kernel));
  TRY(write_command_line(memory, files.command_line));
  if (kernel->entry.protocol == Protocol::kPvh) {
    TRY(write_start_info(memory, initrd));
  } else {
    TRY(write_zero_page(memory, *kernel, initrd));
  }
  return kernel->entry;
}

}  // namespace mayfly::boot
