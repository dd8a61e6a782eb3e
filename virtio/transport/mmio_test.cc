// SPDX-License-Identifier: Apache-2.0
#include "virtio/transport/mmio.h"

#include "virtio/queue/testing/fake_driver.h"
#include "virtio/transport/testing/echo_device.h"
#include "virtio/transport/testing/mmio_guest.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

namespace mayfly::virtio {
namespace {

using testing::EchoDevice;
using testing::FakeDriver;
using testing::MmioGuest;

constexpr uint32_t kAckAndDriver = status::kAcknowledge | status::kDriver;
constexpr uint32_t kRunning = kAckAndDriver | status::kFeaturesOk | status::kDriverOk;

struct CountingLine final : InterruptLine {
  void raise() override { ++raised; }
  std::atomic<int> raised = 0;
};

struct Setup {
  std::function<bool(MmioTransport::Held&)> make_wait() {
    return [this](MmioTransport::Held& held) {
      CHECK(held.owns_lock());
      ++waits;
      if (waits == finish_at) device.finish_kept();
      return waits != give_up_at;
    };
  }
  void start(uint64_t features = kFeatureVersion1) {
    REQUIRE(guest.negotiate(features));
    guest.set_queue(0, driver0.queue_state());
    guest.set_queue(1, driver1.queue_state());
    guest.driver_ok();
    REQUIRE_EQ(guest.status(), kRunning);
    CHECK_EQ(kicks(0), 1);
    CHECK_EQ(kicks(1), 1);
  }
  void kick(uint16_t index) {
    const std::lock_guard held(lock);
    transport->process_kick(index);
  }
  uint64_t kicks(uint16_t index) {
    uint64_t count = 0;
    if (::read(transport->kick_event(index).number(), &count, 8) != 8) return 0;
    return count;
  }

  GuestMemory memory = testing::make_memory(1024 * 1024);
  FakeDriver driver0{memory, {}};
  FakeDriver driver1{memory, {.base = driver0.end(), .size = 4}};
  std::mutex lock;
  CountingLine line;
  EchoDevice device;
  int waits = 0;
  int finish_at = 1;
  int give_up_at = 0;
  std::unique_ptr<MmioTransport> transport =
      *MmioTransport::create({device, memory, lock, line, make_wait()});
  MmioGuest guest{*transport};
};

TEST_CASE("the identification registers read as the specification says") {
  Setup s;
  CHECK_EQ(s.guest.get(0x000), 0x74726976);
  CHECK_EQ(s.guest.get(0x004), 2);
  CHECK_EQ(s.guest.get(0x008), 3);
  CHECK_NE(s.guest.get(0x00c), 0);
  CHECK_EQ(s.guest.get(0x0fc), 0);
  for (const uint64_t offset : {0xb0, 0xb4, 0xb8, 0xbc}) CHECK_EQ(s.guest.get(offset), ~0U);
  CHECK_EQ(s.guest.offered(),
           EchoDevice::kFeature | kFeatureVersion1 | kFeatureEventIdx | kFeatureIndirectDesc);
  s.guest.set(0x14, 2);
  CHECK_EQ(s.guest.get(0x10), 0);
  // Write-only and unknown registers.
  for (const uint64_t offset : {0x14, 0x20, 0x30, 0x38, 0x50, 0x64, 0x80, 0xc0, 0xf8}) {
    CHECK_EQ(s.guest.get(offset), 0);
  }
}

TEST_CASE("the specification's initialisation sequence runs the device") {
  Setup s;
  CHECK_EQ(s.guest.status(), 0);
  s.start(kFeatureVersion1 | EchoDevice::kFeature);
  CHECK_EQ(s.device.activations, 1);
  CHECK_EQ(s.device.negotiated, (kFeatureVersion1 | EchoDevice::kFeature));
  CHECK_EQ(s.device.queues.size(), 2);
  CHECK(s.device.queues[0].ready());

  const auto answer = s.driver0.writable(5);
  s.driver0.add({s.driver0.readable("hello"), answer});
  s.guest.set(0x50, 0);
  CHECK_EQ(s.kicks(0), 1);
  s.kick(0);
  CHECK_EQ(s.driver0.text(answer.range), "hello");
  CHECK_EQ(s.line.raised, 1);
  CHECK_EQ(s.guest.get(0x60), kInterruptUsed);
  s.guest.set(0x64, kInterruptUsed);
  CHECK_EQ(s.guest.get(0x60), 0);
  s.kick(0);
  CHECK_EQ(s.line.raised, 1);
}

TEST_CASE("a queue that the driver did not enable is not ready") {
  Setup s;
  REQUIRE(s.guest.negotiate(kFeatureVersion1));
  s.guest.set_queue(0, s.driver0.queue_state());
  s.guest.driver_ok();
  CHECK_EQ(s.guest.status(), kRunning);
  CHECK(s.device.queues[0].ready());
  CHECK_FALSE(s.device.queues[1].ready());
  s.kick(1);
  CHECK_EQ(s.guest.status(), kRunning);
}

TEST_CASE("FEATURES_OK is refused without VERSION_1 and for what was not offered") {
  Setup s;
  CHECK_FALSE(s.guest.negotiate(EchoDevice::kFeature));
  CHECK_EQ(s.guest.status(), kAckAndDriver);
  for (int bit = 0; bit < 64; ++bit) {
    const uint64_t feature = uint64_t{1} << bit;
    CHECK_EQ(s.guest.negotiate(kFeatureVersion1 | feature), (s.guest.offered() & feature) != 0);
  }
  CHECK(s.guest.negotiate(s.guest.offered()));
  // Negotiated features stay.
  s.guest.set(0x24, 0);
  s.guest.set(0x20, ~0U);
  s.guest.driver_ok();
  CHECK_EQ(s.device.negotiated, s.guest.offered());
}

TEST_CASE("status bits come in order, and only a reset takes them away") {
  Setup s;
  s.guest.set(0x70, status::kDriverOk);
  CHECK_EQ(s.guest.status(), 0);
  s.guest.set(0x70, status::kDriver | status::kFeaturesOk);
  CHECK_EQ(s.guest.status(), 0);
  s.guest.set(0x70, kAckAndDriver);
  CHECK_EQ(s.guest.status(), kAckAndDriver);
  s.guest.set(0x70, kAckAndDriver | status::kDriverOk);
  CHECK_EQ(s.guest.status(), kAckAndDriver);
  s.guest.set(0x70, status::kAcknowledge);
  CHECK_EQ(s.guest.status(), kAckAndDriver);
  s.guest.set(0x70, kAckAndDriver | status::kNeedsReset | 0xffff'ff00);
  CHECK_EQ(s.guest.status(), kAckAndDriver);
  s.guest.set(0x70, kAckAndDriver | status::kFailed);
  CHECK_EQ(s.guest.status(), (kAckAndDriver | status::kFailed));
  s.guest.set(0x70, 0);
  CHECK_EQ(s.guest.status(), 0);
  CHECK_EQ(s.device.activations, 0);
  CHECK_EQ(s.device.resets, 0);
}

TEST_CASE("queue registers") {
  Setup s;
  REQUIRE(s.guest.negotiate(kFeatureVersion1));
  s.guest.set(0x30, 0);
  CHECK_EQ(s.guest.get(0x34), 8);
  s.guest.set(0x30, 1);
  CHECK_EQ(s.guest.get(0x34), 4);
  CHECK_EQ(s.guest.get(0x44), 0);
  s.guest.set_queue(1, s.driver1.queue_state());
  CHECK_EQ(s.guest.get(0x44), 1);
  const auto state = [&] {
    const std::lock_guard held(s.lock);
    return s.transport->save().queues[1];
  };
  const QueueState before = state();
  CHECK_EQ(before, s.driver1.queue_state());

  // A ready queue is not set up again until it is taken back.
  for (const uint64_t offset : {0x38, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4}) s.guest.set(offset, 2);
  CHECK_EQ(state(), before);
  s.guest.set(0x44, 0);
  CHECK_EQ(s.guest.get(0x44), 0);
  s.guest.set(0x38, 2);
  s.guest.set(0x84, 7);
  CHECK_EQ(state().size, 2);
  CHECK_EQ(state().descriptors.value, before.descriptors.value + (uint64_t{7} << 32));
  s.guest.set(0x38, 0x10004);
  CHECK_EQ(state().size, 0);

  // Queues there are not.
  for (const uint32_t index : {2U, 8U, ~0U}) {
    s.guest.set_queue(index, s.driver1.queue_state());
    CHECK_EQ(s.guest.get(0x34), 0);
    CHECK_EQ(s.guest.get(0x44), 0);
    s.guest.set(0x50, index);
  }
  CHECK_EQ(s.kicks(0), 0);
  CHECK_EQ(s.kicks(1), 0);
}

TEST_CASE("a running queue's registers cannot be written") {
  Setup s;
  s.start();
  s.guest.set(0x30, 0);
  s.guest.set(0x44, 0);
  s.guest.set(0x38, 2);
  s.guest.set(0x80, 0);
  CHECK_EQ(s.guest.get(0x44), 1);
  const std::lock_guard held(s.lock);
  CHECK_EQ(s.transport->save().queues[0], s.driver0.queue_state());
}

TEST_CASE("rings that cannot be used make DRIVER_OK fail with NEEDS_RESET") {
  Setup s;
  REQUIRE(s.guest.negotiate(kFeatureVersion1));
  s.guest.set_queue(0, s.driver0.queue_state());
  QueueState outside = s.driver1.queue_state();
  outside.device_area = Gpa{uint64_t{1} << 40};
  s.guest.set_queue(1, outside);
  s.guest.driver_ok();
  CHECK_EQ(s.guest.status(), (kRunning | status::kNeedsReset));
  CHECK_EQ(s.guest.get(0x60), kInterruptConfig);
  CHECK_EQ(s.line.raised, 1);
  CHECK_EQ(s.device.activations, 0);
  s.kick(0);
  CHECK_EQ(s.device.notifications[0], 0);
  s.start();
  CHECK_EQ(s.device.activations, 1);
}

TEST_CASE("a driver that breaks a ring gets NEEDS_RESET, and nothing until it resets") {
  Setup s;
  s.start();
  s.driver0.write_descriptor(0, {~uint64_t{0}, 8, 0, 0});
  s.driver0.make_available(0);
  s.kick(0);
  CHECK_EQ(s.guest.status(), (kRunning | status::kNeedsReset));
  CHECK_EQ(s.guest.get(0x60), kInterruptConfig);
  s.driver1.add({s.driver1.writable(4)});
  s.kick(1);
  CHECK_EQ(s.device.notifications[1], 0);
  s.guest.set(0x70, kRunning);  // the driver cannot clear it
  CHECK_EQ(s.guest.status(), (kRunning | status::kNeedsReset));

  s.guest.set(0x70, 0);
  CHECK_EQ(s.guest.status(), 0);
  CHECK_EQ(s.guest.get(0x60), 0);
  CHECK_EQ(s.device.resets, 1);
  s.driver0.reset();
  s.start();
  const auto answer = s.driver0.writable(1);
  s.driver0.add({s.driver0.readable("x"), answer});
  s.kick(0);
  CHECK_EQ(s.driver0.text(answer.range), "x");
}

TEST_CASE("configuration space: widths, generation and interrupt") {
  Setup s;
  const std::array<std::byte, 8> bytes =
      std::bit_cast<std::array<std::byte, 8>>(uint64_t{0x0807060504030201});
  for (const size_t width : {1, 2, 4, 8}) {
    s.transport->write(0x100 + 3, std::span(bytes).first(width));
    std::vector<std::byte> back(width, std::byte{0xee});
    s.transport->read(0x100 + 3, back);
    CHECK(std::ranges::equal(back, std::span(bytes).first(width)));
  }
  std::array<std::byte, 3> three;
  three.fill(std::byte{0xee});
  s.transport->read(0x100, three);
  CHECK_EQ(three[2], std::byte{0});
  s.transport->read(~uint64_t{0}, std::span(three).first(1));
  s.transport->write(~uint64_t{0}, std::span(three).first(1));
  s.transport->write(0x103, three);
  CHECK_EQ(s.device.config[3], std::byte{1});

  {
    const std::lock_guard held(s.lock);
    s.transport->config_changed();
  }
  CHECK_EQ(s.guest.get(0xfc), 1);
  CHECK_EQ(s.guest.get(0x60), 0);  // not before DRIVER_OK
  s.start();
  {
    const std::lock_guard held(s.lock);
    s.transport->config_changed();
  }
  CHECK_EQ(s.guest.get(0xfc), 2);
  CHECK_EQ(s.guest.get(0x60), kInterruptConfig);
  CHECK_EQ(s.line.raised, 1);
}

TEST_CASE("registers are 32 bits wide and aligned; other accesses read zero and write nothing") {
  Setup s;
  for (const size_t width : {1, 2, 8}) {
    std::vector<std::byte> data(width, std::byte{0xff});
    s.transport->read(0x000, data);
    CHECK_EQ(data[0], std::byte{0});
    std::vector<std::byte> one(width, std::byte{0});
    one[0] = std::byte{1};
    s.transport->write(0x70, one);
  }
  CHECK_EQ(s.guest.get(0x002), 0);
  s.guest.set(0x6e, 0x10001);
  CHECK_EQ(s.guest.status(), 0);
  s.transport->read(0x000, {});
  s.transport->write(0x70, {});
  s.transport->write(0x100, {});
}

TEST_CASE("a reset waits until the device has let go of guest memory") {
  Setup s;
  s.start();
  s.driver1.add({s.driver1.writable(4)});
  s.kick(1);
  CHECK_EQ(s.device.kept.size(), 1);
  s.finish_at = 3;
  s.guest.set(0x70, 0);
  CHECK_EQ(s.waits, 3);
  CHECK_EQ(s.guest.status(), 0);
  CHECK_EQ(s.driver1.used_index(), 0);
  CHECK_EQ(s.device.resets, 1);
}

TEST_CASE("a reset gives up waiting when the machine ends") {
  Setup s;
  s.start();
  s.driver1.add({s.driver1.writable(4)});
  s.kick(1);
  s.finish_at = 0;
  s.give_up_at = 2;
  s.guest.set(0x70, 0);
  CHECK_EQ(s.waits, 2);
  CHECK_EQ(s.guest.status(), kRunning);
}

TEST_CASE("while one vCPU waits in a reset, others can read and cannot disturb it") {
  Setup s;
  s.transport = *MmioTransport::create({s.device, s.memory, s.lock, s.line, [&](auto& held) {
                                          held.unlock();
                                          std::this_thread::yield();
                                          held.lock();
                                          return true;
                                        }});
  const MmioGuest guest(*s.transport);
  REQUIRE(guest.negotiate(kFeatureVersion1));
  guest.set_queue(1, s.driver1.queue_state());
  guest.driver_ok();
  s.driver1.add({s.driver1.writable(4)});
  s.kick(1);
  std::thread resetting([&] { guest.set(0x70, 0); });
  while (true) {
    const std::lock_guard held(s.lock);
    if (s.device.resets == 1) break;
  }
  CHECK_EQ(guest.status(), kRunning);
  guest.set(0x70, 0);
  guest.set(0x70, kRunning);
  guest.set(0x30, 1);
  guest.set(0x60, 0);
  s.kick(1);
  {
    const std::lock_guard held(s.lock);
    s.device.finish_kept();
  }
  resetting.join();
  CHECK_EQ(guest.status(), 0);
  CHECK_EQ(s.device.resets, 1);
  CHECK_EQ(s.device.activations, 1);
}

TEST_CASE("frozen, no chain is taken by anyone; thawed, every queue is notified again") {
  Setup s;
  s.start();
  s.driver1.add({s.driver1.writable(4)});
  s.kick(1);
  REQUIRE_EQ(s.device.kept.size(), 1);
  {
    const std::lock_guard held(s.lock);
    s.transport->freeze();
  }
  s.driver0.add({s.driver0.readable("x"), s.driver0.writable(1)});
  s.kick(0);
  {
    const std::lock_guard held(s.lock);
    s.device.queue_notified(0);  // the device by itself, as on input from the host
    s.device.finish_kept();
  }
  CHECK_EQ(s.driver0.used_index(), 0);
  CHECK_EQ(s.driver1.used_index(), 1);
  CHECK_EQ(s.line.raised, 1);
  s.kicks(0);
  {
    const std::lock_guard held(s.lock);
    s.transport->thaw();
  }
  CHECK_EQ(s.kicks(0), 1);
  CHECK_EQ(s.kicks(1), 1);
  CHECK_EQ(s.line.raised, 2);  // not acknowledged yet
  s.kick(0);
  CHECK_EQ(s.driver0.used_index(), 1);
}

TEST_CASE("thawing does not serve a broken device") {
  Setup s;
  s.start();
  {
    const std::lock_guard held(s.lock);
    s.transport->needs_reset(Error({Code::kInternal, "TEST"}, "broken by the test"));
    s.transport->freeze();
    s.transport->thaw();
    s.driver0.add({s.driver0.readable("x"), s.driver0.writable(1)});
    s.device.queue_notified(0);
  }
  s.kick(0);
  CHECK_EQ(s.driver0.used_index(), 0);
}

}  // namespace
}  // namespace mayfly::virtio
