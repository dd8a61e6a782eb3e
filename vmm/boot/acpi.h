// SPDX-License-Identifier: Apache-2.0
//
// The guest's ACPI tables: hardware-reduced (ACPI 6.5), and nothing but what a guest needs to find
// its CPUs, its IOAPIC, its virtio devices, pvpanic, how to switch off, and who it is. No firmware
// writes them, so they are final.
//
// Who it is: a VM generation id (Microsoft's "Virtual Machine Generation ID"), 16 bytes at
// kGenerationId that no two running machines share. Whoever restores a machine writes a new one
// and then raises kGenerationIdGsi, once; its generic event device (5.6.9.4) notifies the guest's
// driver, which reads the id and reseeds the guest's random numbers. The same interrupt notifies
// the driver of the VMClock page (vmclock.h), which lies beside it.
#pragma once

#include "base/error.h"
#include "base/memory/guest_memory.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace mayfly::boot {

using GenerationId = std::array<std::byte, 16>;

struct AcpiConfig {
  uint32_t vcpu_count = 1;
  /// Devices 0 to count - 1 sit at the places layout.h gives.
  uint32_t virtio_device_count = 0;
  /// Random; zeroes mean that nobody chose one, and are a CHECK.
  GenerationId generation_id = {};
};

/// RSDP, XSDT, FADT, MADT and DSDT as they lie from kAcpiTables on; the RSDP comes first.
std::vector<std::byte> acpi_tables(const AcpiConfig& config);

/// Writes them and the generation id into guest RAM. `config` is ours, so they always fit.
Result<> load_acpi_tables(const GuestMemory& memory, const AcpiConfig& config);
/// The one that is there, and a new one; no vCPU runs.
Result<GenerationId> read_generation_id(const GuestMemory& memory);
Result<> write_generation_id(const GuestMemory& memory, const GenerationId& id);

}  // namespace mayfly::boot
