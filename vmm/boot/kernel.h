// SPDX-License-Identifier: Apache-2.0
//
// Puts a kernel, its initrd, its command line and the tables it reads into guest RAM, and says how
// the first vCPU starts. Two kinds of kernel: an ELF vmlinux with a PVH entry note (Xen's
// docs/misc/pvh.pandoc), entered in 32-bit protected mode; and a bzImage, entered by Linux's 64-bit
// boot protocol (Documentation/arch/x86/boot.rst).
//
// The kernel and initrd files are hostile: every offset, size and address in them is checked, and
// an error names the part. Called once, on the loop thread, before any vCPU runs.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "base/memory/guest_memory.h"

#include <cstdint>
#include <span>
#include <string>

namespace mayfly::boot {

enum class Protocol : uint8_t {
  kPvh,      ///< 32-bit protected mode, EBX = start info
  kLinux64,  ///< long mode, RSI = zero page
};

struct Entry {
  Protocol protocol = Protocol::kPvh;
  Gpa address;
};

struct KernelFiles {
  FdRef kernel;
  /// Loaded one after the other as one initrd.
  std::span<const FdRef> initrds;
  std::string command_line;
};

/// Loads everything but the ACPI tables.
Result<Entry> load_kernel(const GuestMemory& memory, const KernelFiles& files);

// The parts, for tests and fuzzing.

/// What a kernel file turned out to need.
struct LoadedKernel {
  Entry entry;
  /// RAM the kernel occupies while it starts: [start, end).
  Gpa start;
  Gpa end;
  /// The bzImage's setup header as it goes into the zero page; empty for ELF.
  std::string setup_header;
  /// The initrd must end at or below.
  Gpa initrd_limit;
};

Result<LoadedKernel> load_elf(const GuestMemory& memory, FdRef kernel);
Result<LoadedKernel> load_bzimage(const GuestMemory& memory, FdRef kernel);

}  // namespace mayfly::boot
