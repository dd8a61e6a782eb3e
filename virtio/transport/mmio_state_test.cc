// SPDX-License-Identifier: Apache-2.0
#include "virtio/queue/testing/fake_driver.h"
#include "virtio/transport/mmio.h"
#include "virtio/transport/testing/echo_device.h"
#include "virtio/transport/testing/mmio_guest.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

namespace mayfly::virtio {
namespace {

using testing::EchoDevice;
using testing::FakeDriver;
using testing::MmioGuest;

struct CountingLine final : InterruptLine {
  void raise() override { ++raised; }
  int raised = 0;
};

// One side of a snapshot: everything but the guest's memory.
struct Host {
  explicit Host(const GuestMemory& memory)
      : transport(*MmioTransport::create({device, memory, lock, line, [](auto&) { return true; }})),
        guest(*transport) {}
  void kick(uint16_t index) {
    const std::lock_guard held(lock);
    transport->process_kick(index);
  }
  MmioState save() {
    const std::lock_guard held(lock);
    return transport->save();
  }
  Result<> restore(const MmioState& state) {
    const std::lock_guard held(lock);
    return transport->restore(state);
  }
  void freeze_and_thaw() {
    const std::lock_guard held(lock);
    transport->freeze();
    transport->thaw();
  }
  std::mutex lock;
  CountingLine line;
  EchoDevice device;
  std::unique_ptr<MmioTransport> transport;
  MmioGuest guest;
};

struct Setup {
  GuestMemory memory = testing::make_memory(1024 * 1024);
  FakeDriver driver{memory, {.event_idx = true}};
  Host first{memory};
  Host second{memory};

  void start() {
    REQUIRE(first.guest.negotiate(kFeatureVersion1 | kFeatureEventIdx));
    first.guest.set_queue(0, driver.queue_state());
    first.guest.driver_ok();
  }
  // One request answered by `host`.
  std::string round(Host& host, std::string_view text) {
    const auto answer = driver.writable(text.size());
    driver.add({driver.readable(text), answer});
    host.kick(0);
    driver.take_used();
    return driver.text(answer.range);
  }
};

TEST_CASE("a running device carries on elsewhere, from any index and with its interrupt pending") {
  Setup s;
  s.start();
  for (int i = 0; i < 11; ++i) CHECK_EQ(s.round(s.first, "before"), "before");
  const MmioState state = s.first.save();
  CHECK_EQ(state.queues[0].next_avail, 11);
  CHECK_EQ(state.interrupt_status, kInterruptUsed);

  REQUIRE(s.second.restore(state).has_value());
  CHECK_EQ(s.second.save(), state);
  CHECK_EQ(s.second.device.activations, 1);
  CHECK_EQ(s.second.device.negotiated, (kFeatureVersion1 | kFeatureEventIdx));
  CHECK_FALSE(s.second.device.queues[1].ready());
  s.second.freeze_and_thaw();
  CHECK_EQ(s.second.line.raised, 1);
  CHECK_EQ(s.round(s.second, "after"), "after");
  CHECK_EQ(s.second.line.raised, 2);
}

TEST_CASE("a driver in the middle of its initialisation carries on too") {
  Setup s;
  CHECK(s.second.restore(s.first.save()).has_value());
  s.first.guest.set(0x70, status::kAcknowledge | status::kDriver);
  s.first.guest.set(0x24, 1);
  s.first.guest.set(0x20, 1);
  s.first.guest.set(0x30, 1);
  s.first.guest.set(0x38, 2);
  Host third(s.memory);
  REQUIRE(third.restore(s.first.save()).has_value());
  CHECK_EQ(third.device.activations, 0);
  CHECK_EQ(third.save(), s.first.save());
  third.guest.set(0x70, third.guest.status() | status::kFeaturesOk);
  third.guest.set_queue(0, s.driver.queue_state());
  third.guest.driver_ok();
  CHECK_EQ(third.device.activations, 1);
}

TEST_CASE("a device that needs a reset still does, and can have it") {
  Setup s;
  s.start();
  s.driver.set_avail_index(100);
  s.first.kick(0);
  const MmioState state = s.first.save();
  REQUIRE((state.status & status::kNeedsReset) != 0);
  REQUIRE(s.second.restore(state).has_value());
  CHECK_EQ(s.second.device.activations, 0);
  CHECK_EQ(s.second.guest.status(), state.status);
  s.second.kick(0);
  s.second.guest.set(0x70, 0);
  CHECK_EQ(s.second.guest.status(), 0);
}

TEST_CASE("a state that no guest can have reached is refused, and nothing has happened") {
  Setup s;
  s.start();
  const MmioState good = s.first.save();
  const auto refused = [&](auto&& change) {
    MmioState state = good;
    change(state);
    const Result<> result = s.second.restore(state);
    CHECK_FALSE(result.has_value());
    CHECK_EQ(s.second.device.activations, 0);
    CHECK_EQ(s.second.guest.status(), 0);
    CHECK_EQ(s.second.save().queues[0], QueueState());
  };
  refused([](MmioState& m) { m.device_type = 2; });
  refused([](MmioState& m) { m.status = status::kDriverOk; });
  refused([](MmioState& m) { m.status |= 16; });
  refused([](MmioState& m) { m.status |= 0x100; });
  refused([](MmioState& m) { m.driver_features = 0; });
  refused([](MmioState& m) { m.driver_features |= uint64_t{1} << 63; });
  refused([](MmioState& m) { m.interrupt_status = 4; });
  refused([](MmioState& m) { m.queues.pop_back(); });
  refused([](MmioState& m) { m.queues.resize(100); });
  refused([](MmioState& m) { m.queues.clear(); });
  refused([](MmioState& m) { m.queues[0].size = 16; });
  refused([](MmioState& m) { m.queues[0].next_avail += 9; });
  refused([](MmioState& m) { m.queues[0].driver_area = Gpa{~uint64_t{1}}; });
  refused([](MmioState& m) { m.queues[1] = {4, true, Gpa{1}, Gpa{0}, Gpa{0}, 0, 0}; });
  CHECK(s.second.restore(good).has_value());
}

}  // namespace
}  // namespace mayfly::virtio
