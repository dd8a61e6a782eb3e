// SPDX-License-Identifier: Apache-2.0
//
// The guest's ACPI tables: hardware-reduced (ACPI 6.5), and nothing but what a guest needs to find
// its CPUs, its IOAPIC, its virtio devices, pvpanic, and how to switch off. No firmware writes
// them, so they are final.
#pragma once

#include "base/error.h"
#include "base/memory/guest_memory.h"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mayfly::boot {

struct AcpiConfig {
  uint32_t vcpu_count = 1;
  /// Devices 0 to count - 1 sit at the places layout.h gives.
  uint32_t virtio_device_count = 0;
};

/// RSDP, XSDT, FADT, MADT and DSDT as they lie from kAcpiTables on; the RSDP comes first.
std::vector<std::byte> acpi_tables(const AcpiConfig& config);

/// Writes them into guest RAM. `config` is ours, so they always fit.
Result<> load_acpi_tables(const GuestMemory& memory, const AcpiConfig& config);

}  // namespace mayfly::boot
