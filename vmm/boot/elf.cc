// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/image_file.h"
#include "vmm/boot/kernel.h"
#include "vmm/boot/layout.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include <elf.h>

namespace mayfly::boot {
namespace {

constexpr uint16_t kMaxSegments = 64;
constexpr uint64_t kMaxNotes = 64 * 1024;
constexpr uint32_t kNotePhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY
constexpr char kNoteOwner[] = "Xen";

Result<Elf64_Ehdr> read_header(FdRef file) {
  const auto header = TRY(read_object<Elf64_Ehdr>(file, 0));
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64) {
    return fail({Code::kInvalidArgument, "KERNEL_ARCHITECTURE"},
                "kernel: ELF class %u for machine %u; a 64-bit x86 image (class 2, machine 62) is "
                "needed",
                header.e_ident[EI_CLASS], header.e_machine);
  }
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 ||
      header.e_phnum > kMaxSegments) {
    return fail({Code::kInvalidArgument, "KERNEL_ELF"},
                "kernel: ELF has %u program headers of %u bytes; 1 to %u of %zu are supported",
                header.e_phnum, header.e_phentsize, kMaxSegments, sizeof(Elf64_Phdr));
  }
  return header;
}

// The entry named by the Xen note, if this note segment holds it.
Result<std::optional<uint64_t>> find_entry_note(FdRef file, const Elf64_Phdr& segment) {
  if (segment.p_filesz > kMaxNotes) return std::nullopt;
  std::vector<std::byte> notes(segment.p_filesz);
  TRY(read_image(file, notes, segment.p_offset));
  const uint64_t align = segment.p_align == 8 ? 8 : 4;
  const auto padded = [align](uint64_t size) { return (size + align - 1) & ~(align - 1); };
  for (uint64_t at = 0; notes.size() - at >= sizeof(Elf64_Nhdr);) {
    Elf64_Nhdr note;
    std::memcpy(&note, notes.data() + at, sizeof(note));
    at += sizeof(note);
    const uint64_t owner_size = padded(note.n_namesz);
    const uint64_t size = owner_size + padded(note.n_descsz);
    if (size > notes.size() - at) break;
    const bool is_xen = note.n_namesz == sizeof(kNoteOwner) &&
                        std::memcmp(notes.data() + at, kNoteOwner, sizeof(kNoteOwner)) == 0;
    if (is_xen && note.n_type == kNotePhys32Entry && note.n_descsz >= sizeof(uint32_t)) {
      uint64_t entry = 0;
      std::memcpy(&entry, notes.data() + at + owner_size,
                  std::min<size_t>(note.n_descsz, sizeof(entry)));
      return entry;
    }
    at += size;
  }
  return std::nullopt;
}

Result<> load_segment(const GuestMemory& memory, FdRef file, const Elf64_Phdr& segment) {
  const auto shown = [](uint64_t value) { return static_cast<unsigned long long>(value); };
  if (segment.p_filesz > segment.p_memsz) {
    return fail({Code::kInvalidArgument, "KERNEL_ELF"},
                "kernel: ELF segment of %llu bytes holds %llu bytes of file",
                shown(segment.p_memsz), shown(segment.p_filesz));
  }
  const Result<GuestSpan> span = memory.view({Gpa{segment.p_paddr}, segment.p_memsz});
  if (!span || segment.p_paddr < kKernelFloor.value) {
    return fail({Code::kInvalidArgument, "KERNEL_OUTSIDE_MEMORY"},
                "kernel: ELF segment of %llu bytes at 0x%llx is not in RAM above 1 MiB (the guest "
                "has %llu MiB)",
                shown(segment.p_memsz), shown(segment.p_paddr), shown(memory.size() >> 20));
  }
  // What p_memsz adds is zero already: guest RAM is a fresh memfd.
  return read_into(file, span->subspan(0, segment.p_filesz), segment.p_offset);
}

}  // namespace

Result<LoadedKernel> load_elf(const GuestMemory& memory, FdRef kernel) {
  const Elf64_Ehdr header = TRY(read_header(kernel));
  LoadedKernel loaded;
  loaded.start = Gpa{std::numeric_limits<uint64_t>::max()};
  loaded.initrd_limit = kLowRamEnd;
  std::optional<uint64_t> entry;
  for (uint16_t i = 0; i < header.e_phnum; ++i) {
    const uint64_t at = header.e_phoff + uint64_t{i} * sizeof(Elf64_Phdr);
    const auto segment = TRY(read_object<Elf64_Phdr>(kernel, at));
    if (segment.p_type == PT_NOTE && !entry) entry = TRY(find_entry_note(kernel, segment));
    if (segment.p_type != PT_LOAD || segment.p_memsz == 0) continue;
    TRY(load_segment(memory, kernel, segment));
    loaded.start = std::min(loaded.start, Gpa{segment.p_paddr});
    loaded.end = std::max(loaded.end, Gpa{segment.p_paddr + segment.p_memsz});
  }
  if (!entry) {
    return fail({Code::kInvalidArgument, "KERNEL_NO_PVH"},
                "kernel: the ELF image has no PVH entry note; build it with CONFIG_PVH or use its "
                "bzImage");
  }
  if (*entry < loaded.start.value || *entry >= loaded.end.value) {
    return fail({Code::kInvalidArgument, "KERNEL_ENTRY"},
                "kernel: PVH entry 0x%llx is outside the loaded image",
                static_cast<unsigned long long>(*entry));
  }
  loaded.entry = {Protocol::kPvh, Gpa{*entry}};
  return loaded;
}

}  // namespace mayfly::boot
