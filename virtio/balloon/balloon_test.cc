// SPDX-License-Identifier: Apache-2.0
#include "virtio/balloon/balloon.h"

#include "virtio/queue/testing/device_harness.h"

#include <doctest/doctest.h>

#include <utility>
#include <vector>

namespace mayfly::virtio::balloon {
namespace {

using testing::DeviceHarness;
using testing::GuestBuffer;

constexpr Options kAll = {
    .deflate_on_oom = true, .free_page_reporting = true, .stats_interval_s = 1};

constexpr DeviceHarness::Options kHarness = {.memory_bytes = 8 << 20, .data_size = 64 * 1024};

// Gives RAM back for good, and writes down how.
class CountingTaker final : public PageTaker {
 public:
  Result<GuestSpan> find(GuestRange range) const override {
    ranges.emplace_back(range.start.value / kPageBytes, range.size / kPageBytes);
    return memory->view(range);
  }
  Result<> take(const GuestSpan& pages) override {
    if (failing) return mayfly::fail({Code::kUnavailable, "TEST"}, "not in this test");
    taken.push_back(pages.size());
    return memory->release(pages);
  }

  const GuestMemory* memory = nullptr;
  bool failing = false;
  mutable std::vector<std::pair<uint64_t, uint64_t>> ranges;
  std::vector<uint64_t> taken;
};

struct Setup {
  explicit Setup(const Options& options = kAll)
      : device(own(), options, 8), harness(device, kHarness) {
    taker->memory = &harness.memory();
    harness.activate();
  }
  std::unique_ptr<PageTaker> own() {
    auto owned = std::make_unique<CountingTaker>();
    taker = owned.get();
    return owned;
  }
  GuestBuffer pages(const std::vector<uint32_t>& numbers) {
    return harness.driver(0).readable(std::as_bytes(std::span(numbers)));
  }
  uint8_t byte_at(uint64_t page) {
    return MUST(harness.memory().view({Gpa{page * kPageBytes}, 1})).load<uint8_t>(0);
  }
  void fill(uint64_t page) {
    MUST(harness.memory().view({Gpa{page * kPageBytes}, 1})).store<uint8_t>(0, 0x77);
  }
  uint32_t config(uint64_t offset) {
    uint32_t value = 0;
    device.read_config(offset, std::as_writable_bytes(std::span(&value, 1)));
    return value;
  }

  CountingTaker* taker = nullptr;  // owned by the device
  Balloon device;
  DeviceHarness harness;
};

using Runs = std::vector<std::pair<uint64_t, uint64_t>>;

TEST_CASE("neighbours go in one call, in whatever order and however often they are named") {
  Setup s;
  for (const uint64_t page : {1000, 1001, 1002, 1500}) s.fill(page);
  s.harness.driver(0).add({s.pages({1002, 1500, 1000, 1001, 1000, 1002})});
  s.harness.notify(0);
  CHECK(s.taker->ranges == Runs{{1000, 3}, {1500, 1}});
  CHECK_EQ(s.device.counters().inflated_pages, 4);
  CHECK_EQ(s.byte_at(1001), 0);
  CHECK_EQ(s.byte_at(1500), 0);
  CHECK_EQ(s.harness.driver(0).take_used()->length, 0);
  CHECK_EQ(s.harness.used_calls[0], 1);
}

TEST_CASE("a request may be cut into any buffers, and may name nothing") {
  Setup s;
  const std::vector<uint32_t> numbers = {1000, 1001, 1002};
  const auto bytes = std::as_bytes(std::span(numbers));
  auto& driver = s.harness.driver(0);
  driver.add({driver.readable(bytes.first(5)), driver.readable(bytes.subspan(5))});
  driver.add({driver.readable(bytes.first(0))});
  s.harness.notify(0);
  CHECK(s.taker->ranges == Runs{{1000, 3}});
  CHECK_EQ(s.harness.resets_wanted, 0);
  CHECK_EQ(driver.used_index(), 2);
}

TEST_CASE("pages beyond RAM, half page numbers and too many of them need a reset") {
  const auto reason_of = [](const std::vector<uint32_t>& numbers, size_t cut) {
    Setup s;
    const auto bytes = std::as_bytes(std::span(numbers));
    s.harness.driver(0).add({s.harness.driver(0).readable(bytes.first(bytes.size() - cut))});
    s.harness.notify(0);
    CHECK_EQ(s.harness.used_calls[0], s.harness.resets_wanted == 0 ? 1 : 0);
    return s.harness.reset_reason;
  };
  CHECK_EQ(reason_of({2048}, 0), "BALLOON_PAGE");
  CHECK_EQ(reason_of({2047, 2048}, 0), "BALLOON_PAGE");
  CHECK_EQ(reason_of({0xffff'ffff}, 0), "BALLOON_PAGE");
  CHECK_EQ(reason_of({5, 6}, 1), "BALLOON_REQUEST");
  CHECK_EQ(reason_of(std::vector<uint32_t>(kMaxPagesPerRequest, 1000), 0), "");
  CHECK_EQ(reason_of(std::vector<uint32_t>(kMaxPagesPerRequest + 1, 1000), 0), "BALLOON_REQUEST");
}

TEST_CASE("where the host does not take a page, the driver has still given it") {
  Setup s;
  s.taker->failing = true;
  s.harness.driver(0).add({s.pages({1000})});
  s.harness.notify(0);
  CHECK_EQ(s.harness.resets_wanted, 0);
  CHECK_EQ(s.harness.driver(0).used_index(), 1);
  CHECK_EQ(s.device.counters().failures, 1);
  CHECK_EQ(s.device.counters().inflated_pages, 0);
}

TEST_CASE("deflate requests are answered, whatever is in them") {
  Setup s;
  auto& driver = s.harness.driver(1);
  driver.add({driver.readable("abc")});
  driver.add({driver.writable(64)});
  s.harness.notify(1);
  CHECK_EQ(driver.used_index(), 2);
  CHECK(s.taker->ranges.empty());
}

TEST_CASE("of reported buffers the whole pages in them go") {
  Setup s;
  auto& driver = s.harness.driver(3);
  for (const uint64_t page : {1000, 1001, 1002, 1003}) s.fill(page);
  driver.add({{{Gpa{1000 * kPageBytes}, 2 * kPageBytes}, true},
              {{Gpa{1002 * kPageBytes + 1}, 2 * kPageBytes}, true},
              {{Gpa{1005 * kPageBytes + 1}, kPageBytes}, true}});
  s.harness.notify(3);
  CHECK(s.taker->taken == std::vector<uint64_t>{2 * kPageBytes, kPageBytes});
  CHECK_EQ(s.byte_at(1000), 0);
  CHECK_EQ(s.byte_at(1002), 0x77);
  CHECK_EQ(s.byte_at(1003), 0);
  CHECK_EQ(s.device.counters().reported_pages, 3);
  CHECK_EQ(driver.take_used()->length, 0);
}

TEST_CASE("of a flood of reports what is above the bound stays") {
  Setup s;
  auto& driver = s.harness.driver(3);
  const GuestBuffer all = {{Gpa{2 << 20}, 6 << 20}, true};
  for (int i = 0; i < 32; ++i) driver.add_indirect(std::vector<GuestBuffer>(32, all));
  s.harness.notify(3);
  uint64_t sum = 0;
  for (const uint64_t bytes : s.taker->taken) sum += bytes;
  CHECK_EQ(sum, kMaxReportedBytes);
  CHECK_EQ(driver.used_index(), 32);
}

std::vector<std::byte> stats_bytes(const std::vector<std::pair<uint16_t, uint64_t>>& stats) {
  std::vector<std::byte> bytes;
  for (const auto& [tag, value] : stats) {
    const Stat stat{tag, value};
    const auto raw = std::as_bytes(std::span(&stat, 1));
    bytes.insert(bytes.end(), raw.begin(), raw.end());
  }
  return bytes;
}

TEST_CASE("statistics are read where they lie; the buffer goes back when more are wanted") {
  Setup s;
  auto& driver = s.harness.driver(2);
  s.device.ask_for_stats();  // No buffer yet: nothing to give back.
  CHECK_EQ(s.device.stats().at_ns, 0);
  auto bytes = stats_bytes({{4, 111}, {5, 222}, {99, 1}, {4, 333}});
  bytes.resize(bytes.size() + 7);
  driver.add({driver.readable(bytes)});
  s.harness.notify(2);
  s.harness.notify(2);
  CHECK_EQ(driver.used_index(), 0);
  CHECK_NE(s.device.stats().at_ns, 0);
  CHECK_EQ(s.device.stats().values[4], 333);
  CHECK_EQ(s.device.stats().values[5], 222);
  CHECK_FALSE(s.device.stats().values[0].has_value());

  s.device.ask_for_stats();
  CHECK_EQ(driver.take_used()->length, 0);
  s.device.ask_for_stats();
  driver.add({driver.readable(stats_bytes({{0, 7}}))});
  CHECK(driver.kick_wanted());
  s.harness.notify(2);
  CHECK_EQ(s.device.stats().values[0], 7);
  CHECK_FALSE(s.device.stats().values[4].has_value());
}

TEST_CASE("of a flood of statistics as many are read as there can be") {
  Setup s;
  auto& driver = s.harness.driver(2);
  std::vector<std::pair<uint16_t, uint64_t>> many(kMaxStats, {1, 5});
  many.push_back({1, 6});
  driver.add({driver.readable(stats_bytes(many))});
  s.harness.notify(2);
  CHECK_EQ(s.device.stats().values[1], 5);
}

TEST_CASE("the target is in the configuration space, and a change of it is told") {
  Setup s;
  CHECK_EQ(s.config(0), 8);
  s.device.set_target(500);
  CHECK_EQ(s.config(0), 500);
  CHECK_EQ(s.harness.config_changes, 1);
  const uint32_t actual = 300;
  s.device.write_config(4, std::as_bytes(std::span(&actual, 1)));
  CHECK_EQ(s.config(4), 300);
  CHECK_EQ(s.device.actual_pages(), 300);
  // Neither the target nor what lies elsewhere is the driver's to write.
  s.device.write_config(0, std::as_bytes(std::span(&actual, 1)));
  s.device.write_config(5, std::as_bytes(std::span(&actual, 1)));
  s.device.write_config(~uint64_t{0} - 1, std::as_bytes(std::span(&actual, 1)));
  CHECK_EQ(s.config(0), 500);
  CHECK_EQ(s.config(4), 300);
  CHECK_EQ(s.config(6), 0);
  CHECK_EQ(s.config(~uint64_t{0}), 0);
}

TEST_CASE("queues and features are those that were asked for") {
  Setup none(Options{});
  CHECK_EQ(none.device.queue_sizes().size(), 2);
  CHECK_EQ(none.device.features(), 0);
  none.device.ask_for_stats();
  Setup reporting({.free_page_reporting = true});
  CHECK_EQ(reporting.device.queue_sizes().size(), 3);
  CHECK_EQ(reporting.device.queue_sizes()[2], kReportQueueSize);
  CHECK_EQ(reporting.device.features(), kFeatureReporting);
  Setup all;
  CHECK_EQ(all.device.features(), kFeatureReporting | kFeatureStatsVq | kFeatureDeflateOnOom);
}

TEST_CASE("a restored balloon is as it was saved, and of the same options only") {
  Setup s;
  const uint32_t actual = 300;
  s.device.set_target(500);
  s.device.write_config(4, std::as_bytes(std::span(&actual, 1)));
  const State state = s.device.save();
  Setup other;
  REQUIRE(other.device.restore(state).has_value());
  CHECK(other.device.save() == state);
  Setup less(Options{});
  CHECK_EQ(less.device.restore(state).error().reason(), "BALLOON_OPTIONS");
}

TEST_CASE("after a reset a notification does nothing, and the driver has given nothing") {
  Setup s;
  const uint32_t actual = 300;
  s.device.write_config(4, std::as_bytes(std::span(&actual, 1)));
  s.device.reset();
  s.harness.driver(0).add({s.pages({1000})});
  s.harness.notify(0);
  s.device.ask_for_stats();
  CHECK_EQ(s.harness.driver(0).used_index(), 0);
  CHECK_EQ(s.device.actual_pages(), 0);
  CHECK_EQ(s.device.target_pages(), 8);
}

}  // namespace
}  // namespace mayfly::virtio::balloon
