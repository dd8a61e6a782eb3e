// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/acpi.h"

#include "vmm/boot/aml.h"
#include "vmm/boot/layout.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <span>
#include <string_view>
#include <utility>

namespace mayfly::boot {
namespace {

using Bytes = std::vector<std::byte>;

struct [[gnu::packed]] Rsdp {  // 5.2.5.3
  char signature[8];
  uint8_t checksum;
  char oem_id[6];
  uint8_t revision;
  uint32_t rsdt_address;
  uint32_t length;
  uint64_t xsdt_address;
  uint8_t extended_checksum;
  uint8_t reserved[3];
};
static_assert(sizeof(Rsdp) == 36);

struct [[gnu::packed]] Header {  // 5.2.6
  char signature[4];
  uint32_t length;
  uint8_t revision;
  uint8_t checksum;
  char oem_id[6];
  char oem_table_id[8];
  uint32_t oem_revision;
  char creator_id[4];
  uint32_t creator_revision;
};
static_assert(sizeof(Header) == 36);

struct [[gnu::packed]] GenericAddress {  // 5.2.3.2
  uint8_t space;
  uint8_t bit_width;
  uint8_t bit_offset;
  uint8_t access_size;
  uint64_t address;
};

GenericAddress byte_port(uint16_t port) { return {1, 8, 0, 1, port}; }

struct [[gnu::packed]] Fadt {  // 5.2.9, without the header
  uint32_t firmware_ctrl;
  uint32_t dsdt;
  uint8_t reserved0;
  uint8_t preferred_pm_profile;
  uint8_t fixed_hardware[62];  // ignored in hardware-reduced mode
  uint8_t century;
  uint16_t iapc_boot_arch;
  uint8_t reserved1;
  uint32_t flags;
  GenericAddress reset_register;
  uint8_t reset_value;
  uint16_t arm_boot_arch;
  uint8_t minor_version;
  uint64_t x_firmware_ctrl;
  uint64_t x_dsdt;
  GenericAddress fixed_blocks[8];
  GenericAddress sleep_control;
  GenericAddress sleep_status;
  uint64_t hypervisor_vendor;
};
static_assert(offsetof(Fadt, iapc_boot_arch) + sizeof(Header) == 109);
static_assert(offsetof(Fadt, reset_register) + sizeof(Header) == 116);
static_assert(offsetof(Fadt, x_dsdt) + sizeof(Header) == 140);
static_assert(offsetof(Fadt, sleep_control) + sizeof(Header) == 244);
static_assert(sizeof(Fadt) + sizeof(Header) == 276);

constexpr uint16_t kBootNoVga = 1 << 2;
constexpr uint16_t kBootNoCmosRtc = 1 << 5;
constexpr uint32_t kFadtWbinvd = 1 << 0;
constexpr uint32_t kFadtNoPowerButton = 1 << 4;
constexpr uint32_t kFadtNoSleepButton = 1 << 5;
constexpr uint32_t kFadtResetRegister = 1 << 10;
constexpr uint32_t kFadtHardwareReduced = 1 << 20;

struct [[gnu::packed]] Madt {  // 5.2.12, without the header
  uint32_t local_apic_address;
  uint32_t flags;
};
struct [[gnu::packed]] MadtLocalApic {  // 5.2.12.2
  uint8_t type = 0;
  uint8_t length = 8;
  uint8_t processor_uid;
  uint8_t apic_id;
  uint32_t flags = 1;
};
struct [[gnu::packed]] MadtIoapic {  // 5.2.12.3
  uint8_t type = 1;
  uint8_t length = 12;
  uint8_t ioapic_id;
  uint8_t reserved = 0;
  uint32_t address;
  uint32_t gsi_base;
};

template <typename T>
void append(Bytes& to, const T& value) {
  const auto bytes = std::as_bytes(std::span<const T, 1>(&value, 1));
  to.insert(to.end(), bytes.begin(), bytes.end());
}

uint8_t checksum(std::span<const std::byte> bytes) {
  const auto sum = std::accumulate(bytes.begin(), bytes.end(), 0u, [](unsigned total, std::byte b) {
    return total + std::to_integer<unsigned>(b);
  });
  return static_cast<uint8_t>(0u - sum);
}

// Header and body, with length and checksum filled in.
Bytes table(std::string_view signature, uint8_t revision, const Bytes& body) {
  Header header = {};
  std::memcpy(header.signature, signature.data(), sizeof(header.signature));
  header.length = static_cast<uint32_t>(sizeof(Header) + body.size());
  header.revision = revision;
  std::memcpy(header.oem_id, "MAYFLY", sizeof(header.oem_id));
  std::memcpy(header.oem_table_id, "MICROVM ", sizeof(header.oem_table_id));
  header.oem_revision = 1;
  std::memcpy(header.creator_id, "MAYF", sizeof(header.creator_id));
  header.creator_revision = 1;
  Bytes bytes(sizeof(Header) + body.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::ranges::copy(body, bytes.begin() + sizeof(Header));
  bytes[offsetof(Header, checksum)] = std::byte{checksum(bytes)};
  return bytes;
}

aml::Term virtio_device(uint32_t index) {
  const char digits[] = "0123456789ABCDEF";
  const char name[] = {'V', 'R', digits[index / 16], digits[index % 16], '\0'};
  const auto base = static_cast<uint32_t>(kVirtioMmio.value + index * kVirtioMmioStride);
  return aml::device(
      name, aml::sequence({
                aml::name("_HID", aml::string("LNRO0005")),
                aml::name("_UID", aml::integer(index)),
                aml::name("_CRS", aml::resource_template({
                                      aml::memory32_fixed(base, uint32_t{kVirtioMmioStride}),
                                      aml::edge_interrupt(kFirstVirtioGsi + index),
                                  })),
            }));
}

// The generation id, found by its _CID, the VMClock page, and the event device that turns the
// interrupt into a Notify of each.
std::vector<aml::Term> identity_devices() {
  constexpr uint8_t kChanged = 0x80;
  const aml::Term counter = aml::string("VM_Gen_Counter");
  const auto address = static_cast<uint32_t>(kGenerationId.value);
  return {
      aml::device("VGEN",
                  aml::sequence({
                      aml::name("_HID", aml::string("MFLY0001")),
                      aml::name("_CID", counter),
                      aml::name("_DDN", counter),
                      aml::name("ADDR", aml::package({aml::integer(address), aml::integer(0)})),
                  })),
      aml::device("VCLK", aml::sequence({
                              aml::name("_HID", aml::string("AMZNC10C")),
                              aml::name("_CID", aml::string("VMCLOCK")),
                              aml::name("_DDN", aml::string("VMCLOCK")),
                              aml::name("_CRS", aml::resource_template({aml::memory32_fixed(
                                                    static_cast<uint32_t>(kVmClock.value),
                                                    static_cast<uint32_t>(kVmClockSize))})),
                          })),
      aml::device(
          "GED_",
          aml::sequence({
              aml::name("_HID", aml::string("ACPI0013")),
              aml::name("_CRS", aml::resource_template({aml::edge_interrupt(kGenerationIdGsi)})),
              aml::method("_EVT", 1,
                          aml::sequence({
                              aml::notify("VGEN", kChanged),
                              aml::notify("VCLK", kChanged),
                          })),
          })),
  };
}

Bytes dsdt(const AcpiConfig& config) {
  std::vector<aml::Term> devices;
  for (uint32_t i = 0; i < config.virtio_device_count; ++i) devices.push_back(virtio_device(i));
  devices.push_back(aml::device(
      "PEVT", aml::sequence({
                  aml::name("_HID", aml::string("QEMU0001")),
                  aml::name("_CRS", aml::resource_template({aml::io_port(kPvpanicPort, 1)})),
              })));
  for (aml::Term& device : identity_devices()) devices.push_back(std::move(device));
  const aml::Term code = aml::sequence({
      aml::scope("\\_SB_", aml::sequence(devices)),
      aml::name("_S5_", aml::package({aml::integer(kSleepTypeS5), aml::integer(0), aml::integer(0),
                                      aml::integer(0)})),
  });
  Bytes body;
  for (const uint8_t byte : code) body.push_back(std::byte{byte});
  return table("DSDT", 6, body);
}

Bytes fadt(uint64_t dsdt_address) {
  Fadt fadt = {};
  fadt.iapc_boot_arch = kBootNoVga | kBootNoCmosRtc;
  fadt.flags = kFadtWbinvd | kFadtNoPowerButton | kFadtNoSleepButton | kFadtResetRegister |
               kFadtHardwareReduced;
  fadt.reset_register = byte_port(kResetPort);
  fadt.reset_value = kResetValue;
  fadt.x_dsdt = dsdt_address;
  fadt.sleep_control = byte_port(kSleepControlPort);
  fadt.sleep_status = byte_port(kSleepStatusPort);
  std::memcpy(&fadt.hypervisor_vendor, "MAYFLY", 6);
  Bytes body;
  append(body, fadt);
  return table("FACP", 6, body);
}

Bytes madt(uint32_t vcpu_count) {
  Bytes body;
  append(body, Madt{static_cast<uint32_t>(kLocalApic.value), 0});
  for (uint32_t i = 0; i < vcpu_count; ++i) {
    MadtLocalApic apic;
    apic.processor_uid = static_cast<uint8_t>(i);
    apic.apic_id = static_cast<uint8_t>(i);
    append(body, apic);
  }
  MadtIoapic ioapic;
  ioapic.ioapic_id = 0;
  ioapic.address = static_cast<uint32_t>(kIoapic.value);
  ioapic.gsi_base = 0;
  append(body, ioapic);
  return table("APIC", 5, body);
}

}  // namespace

std::vector<std::byte> acpi_tables(const AcpiConfig& config) {
  Bytes all(64);  // the RSDP, filled in last
  const auto place = [&all](const Bytes& bytes) {
    all.resize((all.size() + 15) & ~size_t{15});
    const uint64_t address = kAcpiTables.value + all.size();
    all.insert(all.end(), bytes.begin(), bytes.end());
    return address;
  };
  const uint64_t dsdt_address = place(dsdt(config));
  const uint64_t fadt_address = place(fadt(dsdt_address));
  const uint64_t madt_address = place(madt(config.vcpu_count));
  Bytes addresses;
  append(addresses, fadt_address);
  append(addresses, madt_address);
  const uint64_t xsdt_address = place(table("XSDT", 1, addresses));

  Rsdp rsdp = {};
  std::memcpy(rsdp.signature, "RSD PTR ", sizeof(rsdp.signature));
  std::memcpy(rsdp.oem_id, "MAYFLY", sizeof(rsdp.oem_id));
  rsdp.revision = 2;
  rsdp.length = sizeof(Rsdp);
  rsdp.xsdt_address = xsdt_address;
  const auto bytes = std::as_bytes(std::span<const Rsdp, 1>(&rsdp, 1));
  rsdp.checksum = checksum(bytes.first(20));
  rsdp.extended_checksum = checksum(bytes);
  std::memcpy(all.data(), &rsdp, sizeof(rsdp));
  return all;
}

Result<> load_acpi_tables(const GuestMemory& memory, const AcpiConfig& config) {
  const Bytes tables = acpi_tables(config);
  CHECK(kAcpiTables.value + tables.size() <= kVmClock.value);
  CHECK(config.generation_id != GenerationId());
  TRY(memory.view({kAcpiTables, tables.size()})).write(0, tables);
  return write_generation_id(memory, config.generation_id);
}

Result<GenerationId> read_generation_id(const GuestMemory& memory) {
  GenerationId id;
  TRY(memory.view({kGenerationId, id.size()})).read(0, id);
  return id;
}

Result<> write_generation_id(const GuestMemory& memory, const GenerationId& id) {
  TRY(memory.view({kGenerationId, id.size()})).write(0, id);
  return {};
}

}  // namespace mayfly::boot
