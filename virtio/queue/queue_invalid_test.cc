// SPDX-License-Identifier: Apache-2.0
//
// What a hostile driver may do to a queue, and what is refused.
#include "virtio/queue/queue.h"
#include "virtio/queue/testing/fake_driver.h"

#include <doctest/doctest.h>

#include <initializer_list>
#include <limits>
#include <string>
#include <vector>

namespace mayfly::virtio {
namespace {

using testing::FakeDriver;

constexpr uint64_t kMemory = 1024 * 1024;
constexpr uint64_t kBuffer = 0x1000;

struct Setup {
  explicit Setup(bool with_indirect = true) : driver(memory, {}) {
    REQUIRE(queue.activate(memory, driver.queue_state(), 8, false, with_indirect).has_value());
  }
  // The reason of the refusal, or "" where the chains were served.
  std::string drain() {
    const auto result = queue.drain([](Chain& chain) -> Result<Verdict> {
      std::vector<std::byte> bytes(std::min<uint64_t>(chain.reader.remaining(), 4096));
      TRY(chain.reader.read(bytes));
      return done(0);
    });
    return result ? "" : result.error().reason();
  }
  void descriptor(uint16_t index, uint64_t address, uint32_t length, int flags, uint16_t next = 0) {
    driver.write_descriptor(index, {address, length, static_cast<uint16_t>(flags), next});
  }
  std::string drain_head(uint16_t head) {
    driver.make_available(head);
    return drain();
  }
  GuestMemory memory = testing::make_memory(kMemory);
  FakeDriver driver;
  Queue queue;
};

TEST_CASE("a queue is refused for its size, its indices, its alignment and its place") {
  Setup s;
  const QueueState good = s.driver.queue_state();
  const auto refused = [&s](QueueState state, uint16_t max_size = 256) {
    Queue queue;
    const auto result = queue.activate(s.memory, state, max_size, true, true);
    CHECK_FALSE(queue.ready());
    return result ? std::string("accepted") : result.error().reason();
  };
  for (const uint16_t size : std::initializer_list<uint16_t>{0, 3, 512, 0xffff}) {
    QueueState state = good;
    state.size = size;
    CHECK_EQ(refused(state), "QUEUE_SIZE");
  }
  CHECK_EQ(refused(good, 4), "QUEUE_SIZE");
  QueueState state = good;
  state.next_avail = 9;
  CHECK_EQ(refused(state), "QUEUE_INDEX");
  state.next_used = 10;
  CHECK_EQ(refused(state), "QUEUE_INDEX");

  for (Gpa QueueState::* field :
       {&QueueState::descriptors, &QueueState::driver_area, &QueueState::device_area}) {
    state = good;
    (state.*field).value += 1;
    CHECK_EQ(refused(state), "QUEUE_ALIGNMENT");
    for (const uint64_t place : {kMemory - 16, kMemory, uint64_t{0xd000'0000}, ~uint64_t{15}}) {
      state = good;
      (state.*field).value = place;
      CHECK_EQ(refused(state), "GUEST_RANGE");
    }
  }
  // The event word at the end counts where it is negotiated, and only there.
  state = good;
  state.driver_area = Gpa{kMemory - 4 - 2 * 8};
  CHECK_EQ(refused(state), "GUEST_RANGE");
  Queue queue;
  CHECK(queue.activate(s.memory, state, 8, false, true).has_value());
}

TEST_CASE("a queue that was not activated serves nothing") {
  Queue queue;
  CHECK_FALSE(queue.ready());
  CHECK_FALSE(queue.drain([](Chain&) -> Result<Verdict> { return done(0); }).value());
  queue.complete(3, 4);
  CHECK_FALSE(queue.take_interrupt());
  queue.disable_notifications();
  queue.reset();
}

TEST_CASE("an avail index more than the size ahead breaks the queue until it is reset") {
  Setup s;
  s.descriptor(0, kBuffer, 4, 0);
  s.driver.set_avail_index(9);
  CHECK_EQ(s.drain(), "QUEUE_AVAIL_INDEX");
  CHECK_FALSE(s.queue.ready());
  CHECK_EQ(s.driver.used_index(), 0);
  s.driver.set_avail_index(1);
  CHECK_EQ(s.drain(), "");
  CHECK_EQ(s.driver.used_index(), 0);
  s.queue.complete(0, 0);
  CHECK_EQ(s.driver.used_index(), 0);
  REQUIRE(s.queue.activate(s.memory, s.driver.queue_state(), 8, false, true).has_value());
  CHECK_EQ(s.drain(), "");
  CHECK_EQ(s.driver.used_index(), 1);
}

TEST_CASE("an avail index that goes back is refused") {
  Setup s;
  s.descriptor(0, kBuffer, 4, 0);
  CHECK_EQ(s.drain_head(0), "");
  s.driver.set_avail_index(0);
  CHECK_EQ(s.drain(), "QUEUE_AVAIL_INDEX");
}

TEST_CASE("a head outside the table is refused") {
  Setup s;
  CHECK_EQ(s.drain_head(8), "QUEUE_HEAD");
}

TEST_CASE("a head that the device still has is refused") {
  Setup s;
  const auto keep = [](Chain&) -> Result<Verdict> { return later(); };
  s.descriptor(0, kBuffer, 4, 0);
  s.driver.make_available(0);
  REQUIRE(s.queue.drain(keep).has_value());
  s.driver.make_available(0);
  CHECK_EQ(s.queue.drain(keep).error().reason(), "QUEUE_HEAD_IN_FLIGHT");
}

TEST_CASE("chains that loop, leave the table or run on are refused") {
  SUBCASE("a descriptor that is its own next") {
    Setup s;
    s.descriptor(0, kBuffer, 4, kDescriptorNext, 0);
    CHECK_EQ(s.drain_head(0), "QUEUE_CHAIN_LENGTH");
  }
  SUBCASE("a loop of three") {
    Setup s;
    s.descriptor(0, kBuffer, 4, kDescriptorNext, 1);
    s.descriptor(1, kBuffer, 4, kDescriptorNext, 2);
    s.descriptor(2, kBuffer, 0, kDescriptorNext, 0);
    CHECK_EQ(s.drain_head(0), "QUEUE_CHAIN_LENGTH");
  }
  SUBCASE("next outside the table") {
    Setup s;
    s.descriptor(0, kBuffer, 4, kDescriptorNext, 8);
    CHECK_EQ(s.drain_head(0), "QUEUE_NEXT");
  }
  SUBCASE("as long as the table is fine") {
    Setup s;
    for (uint16_t i = 0; i < 8; ++i) {
      s.descriptor(i, kBuffer, 4, i < 7 ? kDescriptorNext : 0, static_cast<uint16_t>(i + 1));
    }
    CHECK_EQ(s.drain_head(0), "");
  }
}

TEST_CASE("buffers outside RAM and of huge lengths are refused") {
  const auto refused = [](uint64_t address, uint32_t length, int flags) {
    Setup s;
    s.descriptor(0, address, length, flags);
    return s.drain_head(0);
  };
  constexpr uint32_t kHuge = std::numeric_limits<uint32_t>::max();
  for (const int flags : {0, int{kDescriptorWrite}}) {
    CHECK_EQ(refused(kMemory - 4, 4, flags), "");
    CHECK_EQ(refused(kMemory - 4, 5, flags), "GUEST_RANGE");
    CHECK_EQ(refused(kMemory, 1, flags), "GUEST_RANGE");
    CHECK_EQ(refused(0, kHuge, flags), "GUEST_RANGE");
    CHECK_EQ(refused(~uint64_t{0}, 1, flags), "GUEST_RANGE");
    CHECK_EQ(refused(~uint64_t{0} - 2, kHuge, flags), "GUEST_RANGE");
    CHECK_EQ(refused(0xd000'0000, 4096, flags), "GUEST_RANGE");
  }
}

TEST_CASE("a chain of 4 GiB in all is refused, one byte less is not") {
  const GuestMemory memory = testing::make_memory(uint64_t{2} << 30);
  FakeDriver driver(memory, {});
  const auto reason = [&](uint32_t last) {
    Queue queue;
    FakeDriver fresh(memory, {});
    REQUIRE(queue.activate(memory, fresh.queue_state(), 8, false, true).has_value());
    fresh.add({{{Gpa{0}, 1U << 31}, true}, {{Gpa{0}, 1U << 30}, true}, {{Gpa{0}, last}, true}});
    uint64_t room = 0;
    const auto result = queue.drain([&room](Chain& chain) -> Result<Verdict> {
      room = chain.writer.remaining();
      return done(0);
    });
    return result ? std::to_string(room) : result.error().reason();
  };
  CHECK_EQ(reason((1U << 30) - 1), "4294967295");
  CHECK_EQ(reason(1U << 30), "QUEUE_CHAIN_BYTES");
}

TEST_CASE("a readable buffer after a writable one is refused, also when one is empty") {
  for (const uint32_t length : {4U, 0U}) {
    Setup s;
    s.descriptor(0, kBuffer, length, kDescriptorWrite | kDescriptorNext, 1);
    s.descriptor(1, kBuffer, 4, 0);
    CHECK_EQ(s.drain_head(0), "QUEUE_ORDER");
  }
}

TEST_CASE("overlapping buffers, also over the rings, garble only what the guest owns") {
  Setup s;
  const QueueState state = s.driver.queue_state();
  s.driver.add({{{state.descriptors, 128}, false}, {{state.descriptors, 128}, true}});
  const auto result = s.queue.drain([](Chain& chain) -> Result<Verdict> {
    std::vector<std::byte> ones(128, std::byte{0xff});
    TRY(chain.writer.write(ones));
    TRY(chain.reader.read(ones));
    return done(128);
  });
  CHECK(result.has_value());
  CHECK_EQ(s.drain_head(1), "QUEUE_INDIRECT");
}

TEST_CASE("a handler's error breaks the queue") {
  Setup s;
  s.descriptor(0, kBuffer, 4, 0);
  s.driver.make_available(0);
  const auto result = s.queue.drain([](Chain& chain) -> Result<Verdict> {
    TRY(chain.reader.read_object<uint64_t>());
    return done(0);
  });
  CHECK_EQ(result.error().reason(), "CHAIN_TOO_SHORT");
  CHECK_FALSE(s.queue.ready());
}

struct IndirectCase {
  const char* what;
  Descriptor outer;
  Descriptor inner[3];
  const char* reason;
};

TEST_CASE("indirect tables") {
  constexpr uint64_t kTable = 0x2000;
  constexpr uint16_t kIndirect = kDescriptorIndirect;
  constexpr uint16_t kNext = kDescriptorNext;
  const Descriptor buffer{kBuffer, 4, 0, 0};
  const IndirectCase cases[] = {
      {"fine", {kTable, 16, kIndirect, 0}, {buffer}, ""},
      {"empty", {kTable, 0, kIndirect, 0}, {buffer}, "QUEUE_INDIRECT"},
      {"cut", {kTable, 24, kIndirect, 0}, {buffer}, "QUEUE_INDIRECT"},
      {"followed", {kTable, 16, kIndirect | kNext, 1}, {buffer}, "QUEUE_INDIRECT"},
      {"outside RAM", {kMemory - 16, 32, kIndirect, 0}, {buffer}, "GUEST_RANGE"},
      {"huge", {kTable, 0xffff'fff0, kIndirect, 0}, {buffer}, "GUEST_RANGE"},
      {"of indirect", {kTable, 32, kIndirect, 0}, {{kTable, 16, kIndirect, 0}}, "QUEUE_INDIRECT"},
      {"next outside", {kTable, 32, kIndirect, 0}, {{kBuffer, 4, kNext, 2}}, "QUEUE_NEXT"},
      {"loop", {kTable, 32, kIndirect, 0}, {{kBuffer, 4, kNext, 0}}, "QUEUE_CHAIN_LENGTH"},
      {"next back to the outer table's number",
       {kTable, 48, kIndirect, 0},
       {{kBuffer, 4, kNext, 2}, buffer, {kBuffer, 4, kNext, 1}},
       ""},
  };
  for (const IndirectCase& c : cases) {
    CAPTURE(c.what);
    Setup s;
    s.driver.write_descriptor(0, c.outer);
    const GuestSpan table = *s.memory.view({Gpa{kTable}, sizeof(c.inner)});
    for (size_t i = 0; i < 3; ++i) table.store(sizeof(Descriptor) * i, c.inner[i]);
    CHECK_EQ(s.drain_head(0), c.reason);
  }
  Setup s(false);
  s.driver.write_descriptor(0, cases[0].outer);
  CHECK_EQ(s.drain_head(0), "QUEUE_INDIRECT");
}

TEST_CASE("an indirect chain may have size() descriptors and not one more") {
  for (const uint16_t count : std::initializer_list<uint16_t>{8, 9}) {
    Setup s;
    std::vector<testing::GuestBuffer> buffers(count, {{Gpa{kBuffer}, 4}, false});
    s.driver.add_indirect(buffers);
    CHECK_EQ(s.drain(), count == 8 ? "" : "QUEUE_CHAIN_LENGTH");
  }
}

TEST_CASE("a descriptor that the guest flips after it was read changes nothing") {
  Setup s;
  const auto text = s.driver.readable("good");
  const auto answer = s.driver.writable(4);
  const uint16_t head = s.driver.add({text, answer});
  const auto result = s.queue.drain([&](Chain& chain) -> Result<Verdict> {
    s.descriptor(0, kMemory * 16, 0xffff'ffff, kDescriptorNext, 0);
    s.descriptor(1, kMemory * 16, 0xffff'ffff, kDescriptorIndirect, 0);
    s.driver.set_avail_index(1);
    const auto word = TRY(chain.reader.read_object<uint32_t>());
    TRY(chain.writer.write_object(word));
    return done(chain.writer.written());
  });
  CHECK_FALSE(result.value());
  CHECK_EQ(s.driver.text(answer.range), "good");
  CHECK_EQ(s.driver.take_used()->id, head);
  // Valid a moment ago, invalid now.
  CHECK_EQ(s.drain_head(head), "GUEST_RANGE");
}

TEST_CASE("a chain put back by stop() is checked anew") {
  Setup s;
  s.descriptor(0, kBuffer, 4, 0);
  s.driver.make_available(0);
  CHECK_FALSE(s.queue.drain([](Chain&) -> Result<Verdict> { return stop(); }).value());
  s.descriptor(0, kMemory, 4, 0);
  CHECK_EQ(s.drain(), "GUEST_RANGE");
}

TEST_CASE("a guest that takes its index back after stop() is not served") {
  Setup s;
  s.descriptor(0, kBuffer, 4, 0);
  s.driver.make_available(0);
  CHECK_FALSE(s.queue.drain([](Chain&) -> Result<Verdict> { return stop(); }).value());
  s.driver.set_avail_index(0);
  CHECK_EQ(s.drain(), "");
  s.driver.set_avail_index(0xffff);
  CHECK_EQ(s.drain(), "QUEUE_AVAIL_INDEX");
}

}  // namespace
}  // namespace mayfly::virtio
