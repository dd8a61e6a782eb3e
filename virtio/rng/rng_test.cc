// SPDX-License-Identifier: Apache-2.0
#include "virtio/rng/rng.h"

#include "virtio/queue/testing/device_harness.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <vector>

namespace mayfly::virtio::rng {
namespace {

using testing::DeviceHarness;

// Counts up, so that a test sees what went where.
class CountingEntropy final : public EntropySource {
 public:
  Result<> fill(std::span<std::byte> out) override {
    if (failing) return mayfly::fail({Code::kUnavailable, "ENTROPY"}, "no entropy in this test");
    for (std::byte& byte : out) byte = std::byte(given++ % 251);
    largest = std::max(largest, out.size());
    return {};
  }

  uint64_t given = 0;
  size_t largest = 0;
  bool failing = false;
};

struct Setup {
  CountingEntropy* source = new CountingEntropy;  // owned by the device
  Rng device{std::unique_ptr<EntropySource>(source)};
  DeviceHarness harness{device};
  Setup() { harness.activate(); }
};

std::vector<std::byte> counting(uint64_t from, size_t size) {
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = std::byte(from++ % 251);
  return bytes;
}

TEST_CASE("requests are filled whole, across buffers and chunks") {
  Setup s;
  auto& driver = s.harness.driver(0);
  const auto small = driver.writable(7);
  const auto first = driver.writable(3000);
  const auto second = driver.writable(2000);
  driver.add({small});
  driver.add_indirect({first, second});
  s.harness.notify(0);
  CHECK_EQ(driver.take_used()->length, 7);
  CHECK_EQ(driver.take_used()->length, 5000);
  CHECK_EQ(driver.contents(small.range), counting(0, 7));
  CHECK_EQ(driver.contents(first.range), counting(7, 3000));
  CHECK_EQ(driver.contents(second.range), counting(3007, 2000));
  CHECK_EQ(s.harness.used_calls[0], 1);
  CHECK(s.device.idle());
}

TEST_CASE("a huge request gets its first 16 KiB, and the bytes after it stay") {
  Setup s;
  auto& driver = s.harness.driver(0);
  const auto buffer = driver.writable(100'000);
  driver.add({buffer});
  s.harness.notify(0);
  CHECK_EQ(driver.take_used()->length, kMaxBytesPerRequest);
  CHECK_EQ(s.source->given, kMaxBytesPerRequest);
  CHECK_LE(s.source->largest, 4096);
  CHECK_EQ(driver.contents(buffer.range)[kMaxBytesPerRequest], std::byte{0xa5});
}

TEST_CASE("requests without room, or with readable buffers, are given back") {
  Setup s;
  auto& driver = s.harness.driver(0);
  driver.add({driver.readable("text")});
  const auto buffer = driver.writable(4);
  driver.add({driver.readable("text"), buffer});
  s.harness.notify(0);
  CHECK_EQ(driver.take_used()->length, 0);
  CHECK_EQ(driver.take_used()->length, 4);
  CHECK_EQ(driver.contents(buffer.range), counting(0, 4));
  CHECK_EQ(s.harness.resets_wanted, 0);
}

TEST_CASE("a broken ring and a broken source ask for a reset") {
  Setup ring;
  ring.harness.driver(0).set_avail_index(1000);
  ring.harness.notify(0);
  CHECK_EQ(ring.harness.reset_reason, "QUEUE_AVAIL_INDEX");

  Setup source;
  source.source->failing = true;
  source.harness.driver(0).add({source.harness.driver(0).writable(4)});
  source.harness.notify(0);
  CHECK_EQ(source.harness.reset_reason, "ENTROPY");
  CHECK_EQ(source.harness.used_calls[0], 0);
}

TEST_CASE("after a reset a notification does nothing until the device is activated again") {
  Setup s;
  auto& driver = s.harness.driver(0);
  s.device.reset();
  driver.add({driver.writable(4)});
  s.harness.notify(0);
  CHECK_EQ(driver.used_index(), 0);
  s.harness.activate();
  s.harness.notify(0);
  CHECK_EQ(driver.used_index(), 1);
  CHECK(s.device.restore(s.device.save()).has_value());
}

TEST_CASE("the configuration space is empty") {
  Setup s;
  std::array<std::byte, 8> bytes;
  bytes.fill(std::byte{0xff});
  s.device.read_config(~uint64_t{0}, bytes);
  CHECK_EQ(bytes[7], std::byte{0});
  s.device.write_config(0, bytes);
}

TEST_CASE("the kernel's bytes are not the same twice") {
  KernelEntropy kernel;
  std::set<std::vector<std::byte>> seen;
  for (int i = 0; i < 100; ++i) {
    std::vector<std::byte> bytes(64);
    REQUIRE(kernel.fill(bytes).has_value());
    CHECK(seen.insert(bytes).second);
  }
  std::vector<std::byte> large(1 << 20);
  REQUIRE(kernel.fill(large).has_value());
  CHECK_LT(std::ranges::count(large, std::byte{0}), 1 << 14);
}

}  // namespace
}  // namespace mayfly::virtio::rng
