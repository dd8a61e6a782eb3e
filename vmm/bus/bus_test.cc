// SPDX-License-Identifier: Apache-2.0
#include "vmm/bus/bus.h"

#include <doctest/doctest.h>

#include <array>

namespace mayfly {
namespace {

struct Register final : BusDevice {
  void read(uint64_t offset, std::span<std::byte> data) override { data[0] = std::byte(offset); }
  void write(uint64_t offset, std::span<const std::byte>) override { written = offset; }
  uint64_t written = ~uint64_t{0};
};

TEST_CASE("an access reaches the device that owns all of it, by offset") {
  Register low;
  Register high;
  Bus bus;
  bus.add(0x100, 8, low);
  bus.add(0x108, 8, high);
  std::array<std::byte, 4> data{};
  bus.write(0x10c, data);
  CHECK_EQ(high.written, 4);
  CHECK_EQ(low.written, ~uint64_t{0});
  bus.read(0x104, data);
  CHECK_EQ(data[0], std::byte{4});
  CHECK_EQ(data[1], std::byte{0});
}

TEST_CASE("what no device owns whole reads as ones and swallows writes") {
  Register device;
  Bus bus;
  bus.add(0x100, 8, device);
  std::array<std::byte, 4> data{};
  for (const uint64_t address : {uint64_t{0xfe}, uint64_t{0x106}, ~uint64_t{0} - 1}) {
    bus.read(address, data);
    CHECK_EQ(data[3], std::byte{0xff});
    bus.write(address, data);
  }
  CHECK_EQ(device.written, ~uint64_t{0});
}

}  // namespace
}  // namespace mayfly
