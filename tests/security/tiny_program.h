// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <elf.h>

namespace mayfly::escape {

/// A whole program: it ends at once with 0.
struct [[gnu::packed]] TinyProgram {
  static constexpr uint64_t kAddress = 0x400000;
  static constexpr uint64_t kSize = sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr) + 9;

  Elf64_Ehdr header = {
      .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
      .e_type = ET_EXEC,
      .e_machine = EM_X86_64,
      .e_version = EV_CURRENT,
      .e_entry = kAddress + sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr),
      .e_phoff = sizeof(Elf64_Ehdr),
      .e_shoff = 0,
      .e_flags = 0,
      .e_ehsize = sizeof(Elf64_Ehdr),
      .e_phentsize = sizeof(Elf64_Phdr),
      .e_phnum = 1,
      .e_shentsize = 0,
      .e_shnum = 0,
      .e_shstrndx = 0,
  };
  Elf64_Phdr segment = {
      .p_type = PT_LOAD,
      .p_flags = PF_R | PF_X,
      .p_offset = 0,
      .p_vaddr = kAddress,
      .p_paddr = kAddress,
      .p_filesz = kSize,
      .p_memsz = kSize,
      .p_align = 4096,
  };
  // mov eax, 60 (exit); xor edi, edi; syscall
  uint8_t code[9] = {0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05};
};
static_assert(sizeof(TinyProgram) == TinyProgram::kSize);

}  // namespace mayfly::escape
