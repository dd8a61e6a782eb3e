// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/acpi.h"

#include "vmm/boot/aml.h"
#include "vmm/boot/layout.h"

#include <doctest/doctest.h>

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
