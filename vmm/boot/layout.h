// SPDX-License-Identifier: Apache-2.0
//
// Where things are in a guest's physical address space and port space (x86). The ACPI tables tell
// the guest all of it; nothing here is probed for.
//
//   0x0000_6000  PVH start info, module list, memory map; or the bzImage zero page
//   0x0000_9000  page tables and GDT for the 64-bit entry
//   0x0002_0000  command line
//   0x000e_0000  ACPI tables; at 0x000e_e000 the VMClock page, at 0x000e_f000 the VM generation id
//   0x0010_0000  RAM for the kernel and all else, up to 3 GiB, then from 4 GiB
//   0xd000_0000  virtio-mmio windows, one page each
//   0xfec0_0000  IOAPIC
//   0xfee0_0000  local APICs
#pragma once

#include "base/memory/guest_memory.h"

#include <cstdint>

namespace mayfly::boot {

inline constexpr Gpa kStartInfo{0x6000};
inline constexpr Gpa kModuleList{0x6040};
inline constexpr Gpa kMemoryMap{0x6100};
inline constexpr Gpa kZeroPage{0x7000};
inline constexpr Gpa kGdt{0x8000};
inline constexpr Gpa kPageTables{0x9000};  // six pages
inline constexpr Gpa kCommandLine{0x2'0000};
/// With the terminating zero; Linux's own limit (COMMAND_LINE_SIZE).
inline constexpr uint64_t kCommandLineSize = 2048;
/// RAM below 1 MiB ends here; the rest up to kKernelFloor is firmware's.
inline constexpr Gpa kBaseMemoryEnd{0x9'fc00};
inline constexpr Gpa kAcpiTables{0xe'0000};
inline constexpr uint64_t kAcpiTablesSize = 0x2'0000;
/// Above the tables, in what the memory map reserves for them. A page that guests may map into
/// their processes, and so with nothing else in it.
inline constexpr Gpa kVmClock{0xe'e000};
inline constexpr uint64_t kVmClockSize = 0x1000;
inline constexpr Gpa kGenerationId{0xe'f000};
/// Nothing of a kernel image goes below.
inline constexpr Gpa kKernelFloor{0x10'0000};

inline constexpr Gpa kVirtioMmio{0xd000'0000};
inline constexpr uint64_t kVirtioMmioStride = 0x1000;
inline constexpr Gpa kIoapic{0xfec0'0000};
inline constexpr uint64_t kIoapicSize = 0x1000;
inline constexpr Gpa kLocalApic{0xfee0'0000};

/// Notifies both of them.
inline constexpr uint32_t kGenerationIdGsi = 1;
/// Virtio device n has GSI kFirstVirtioGsi + n. GSI 0 and 2 are not for devices: to Linux,
/// interrupt 0 is none and 2 is the cascade of a PIC that we do not have.
inline constexpr uint32_t kFirstVirtioGsi = 3;
inline constexpr uint32_t kMaxVirtioDevices = 21;

inline constexpr uint16_t kSerialPort = 0x3f8;
inline constexpr uint16_t kPvpanicPort = 0x505;
inline constexpr uint16_t kSleepControlPort = 0x600;
inline constexpr uint16_t kSleepStatusPort = 0x601;
inline constexpr uint16_t kResetPort = 0x602;

/// What the guest writes to sleep control for S5: SLP_TYP 5, SLP_EN (ACPI 6.5, 4.8.3.7).
inline constexpr uint8_t kSleepTypeS5 = 5;
inline constexpr uint8_t kSleepEnable = 1 << 5;
inline constexpr uint8_t kResetValue = 1;
/// pvpanic's event.
inline constexpr uint8_t kPvpanicPanicked = 1 << 0;

}  // namespace mayfly::boot
