// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/acpi.h"

#include "vmm/boot/aml.h"
#include "vmm/boot/layout.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <string>

namespace mayfly::boot {
namespace {

unsigned sum(const std::vector<std::byte>& bytes, size_t from, size_t size) {
  unsigned total = 0;
  for (size_t i = from; i < from + size; ++i) total += std::to_integer<unsigned>(bytes[i]);
  return total & 0xff;
}

template <typename T>
T load(const std::vector<std::byte>& bytes, size_t at) {
  REQUIRE_LE(at + sizeof(T), bytes.size());
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(value));
  return value;
}

std::string signature(const std::vector<std::byte>& bytes, size_t at) {
  return std::string(reinterpret_cast<const char*>(bytes.data() + at), 4);
}

TEST_CASE("a guest can walk from the RSDP to every table, and each sums to zero") {
  const auto bytes = acpi_tables({.vcpu_count = 32, .virtio_device_count = kMaxVirtioDevices});
  CHECK_LE(bytes.size(), kAcpiTablesSize);
  CHECK_EQ(std::memcmp(bytes.data(), "RSD PTR ", 8), 0);
  CHECK_EQ(sum(bytes, 0, 20), 0);
  CHECK_EQ(sum(bytes, 0, 36), 0);
  const size_t xsdt = load<uint64_t>(bytes, 24) - kAcpiTables.value;
  CHECK_EQ(signature(bytes, xsdt), "XSDT");
  CHECK_EQ(sum(bytes, xsdt, load<uint32_t>(bytes, xsdt + 4)), 0);
  const size_t fadt = load<uint64_t>(bytes, xsdt + 36) - kAcpiTables.value;
  CHECK_EQ(signature(bytes, fadt), "FACP");
  CHECK_EQ(sum(bytes, fadt, load<uint32_t>(bytes, fadt + 4)), 0);
  const size_t madt = load<uint64_t>(bytes, xsdt + 44) - kAcpiTables.value;
  CHECK_EQ(signature(bytes, madt), "APIC");
  CHECK_EQ(load<uint32_t>(bytes, madt + 4), 44 + 32 * 8 + 12);
  CHECK_EQ(sum(bytes, madt, load<uint32_t>(bytes, madt + 4)), 0);
  const size_t dsdt = load<uint64_t>(bytes, fadt + 140) - kAcpiTables.value;
  CHECK_EQ(signature(bytes, dsdt), "DSDT");
  CHECK_EQ(sum(bytes, dsdt, load<uint32_t>(bytes, dsdt + 4)), 0);
}

// Where `term` is in `tables`, which have it once.
size_t find_once(const std::vector<std::byte>& tables, const aml::Term& term) {
  const auto same = [](std::byte a, uint8_t b) { return std::to_integer<uint8_t>(a) == b; };
  const auto at = std::ranges::search(tables, term, same);
  REQUIRE_FALSE(at.empty());
  CHECK_UNARY(std::ranges::search(at.end(), tables.end(), term.begin(), term.end(), same).empty());
  return static_cast<size_t>(at.begin() - tables.begin());
}

TEST_CASE("the generation id is a device with its address, and an interrupt notifies it") {
  const auto bytes = acpi_tables({.vcpu_count = 1, .virtio_device_count = 1});
  find_once(bytes, aml::name("_CID", aml::string("VM_Gen_Counter")));
  find_once(bytes, {0x08, 'A', 'D', 'D', 'R', 0x12, 8, 2, 0x0c, 0x00, 0xf0, 0x0e, 0x00, 0x00});
  find_once(bytes, aml::name("_HID", aml::string("ACPI0013")));
  // Buffer of 11 bytes: Interrupt(consumer, edge, high, exclusive) { 1 }, end.
  find_once(bytes, {0x11, 14, 0x0a, 11, 0x89, 6, 0, 0x03, 1, 1, 0, 0, 0, 0x79, 0});
  // Method(_EVT, 1, Serialized) { Notify(VGEN, 0x80) Notify(VCLK, 0x80) }.
  find_once(bytes, {0x14, 20,   '_',  'E',  'V', 'T', 0x09, 0x86, 'V',  'G', 'E',
                    'N',  0x0a, 0x80, 0x86, 'V', 'C', 'L',  'K',  0x0a, 0x80});
}

TEST_CASE("the VMClock page is a device with its address") {
  const auto bytes = acpi_tables({.vcpu_count = 1, .virtio_device_count = 1});
  find_once(bytes, aml::name("_HID", aml::string("AMZNC10C")));
  find_once(bytes, aml::name("_CID", aml::string("VMCLOCK")));
  // Memory32Fixed(0xee000, 0x1000), end.
  find_once(bytes, {0x86, 9, 0, 1, 0x00, 0xe0, 0x0e, 0x00, 0x00, 0x10, 0x00, 0x00, 0x79, 0});
}

TEST_CASE("tables and generation id do not touch, and the id can be replaced") {
  auto memory = *GuestMemory::create((*Fd::memfd("test", 2 << 20)).ref(), 2 << 20);
  GenerationId id;
  id.fill(std::byte{0x11});
  const AcpiConfig config = {
      .vcpu_count = 32, .virtio_device_count = kMaxVirtioDevices, .generation_id = id};
  CHECK_LE(kAcpiTables.value + acpi_tables(config).size(), kVmClock.value);
  CHECK_LE(kVmClock.value + kVmClockSize, kGenerationId.value);
  CHECK_LE(kGenerationId.value + id.size(), kAcpiTables.value + kAcpiTablesSize);
  REQUIRE(load_acpi_tables(memory, config));
  const auto stored = [&] { return memory.view({kGenerationId, 16})->load<GenerationId>(0); };
  CHECK_UNARY(stored() == id);
  id.fill(std::byte{0x22});
  REQUIRE(write_generation_id(memory, id));
  CHECK_UNARY(stored() == id);
  const auto tables = acpi_tables(config);
  std::vector<std::byte> loaded(tables.size());
  memory.view({kAcpiTables, tables.size()})->read(0, loaded);
  CHECK_UNARY(loaded == tables);
}

TEST_CASE("package lengths take one, two or three bytes as the body grows") {
  const auto body = [](size_t size) { return aml::Term(size, 0xa3); };
  CHECK_EQ(aml::scope("AAAA", body(1)).size(), 1 + 1 + 4 + 1);
  CHECK_EQ(aml::scope("AAAA", body(1))[1], 6);
  const aml::Term two = aml::scope("AAAA", body(100));
  CHECK_EQ(two.size(), 1 + 2 + 104);
  CHECK_EQ(two[1], 0x40 | ((104 + 2) & 0xf));
  CHECK_EQ(two[2], (104 + 2) >> 4);
  const aml::Term three = aml::scope("AAAA", body(5000));
  CHECK_EQ(three.size(), 1 + 3 + 5004);
  CHECK_EQ(three[1] >> 6, 2);
}

}  // namespace
}  // namespace mayfly::boot
