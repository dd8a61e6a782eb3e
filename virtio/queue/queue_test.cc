// SPDX-License-Identifier: Apache-2.0
#include "virtio/queue/queue.h"

#include "virtio/queue/testing/fake_driver.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

namespace {

std::atomic<int> allocations = 0;

}  // namespace

void* operator new(size_t size) {
  ++allocations;
  void* memory = std::malloc(size);
  if (memory == nullptr) std::abort();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }

namespace mayfly::virtio {
namespace {

using testing::FakeDriver;

struct Setup {
  explicit Setup(bool with_event_idx = false, uint16_t size = 8, uint16_t start = 0)
      : driver(memory, {.size = size, .event_idx = with_event_idx}) {
    driver.start_at(start);
    const auto activated =
        queue.activate(memory, driver.queue_state(), kMaxQueueSize, with_event_idx, true);
    REQUIRE(activated.has_value());
  }
  GuestMemory memory = testing::make_memory(1024 * 1024);
  FakeDriver driver;
  Fd wake = *Fd::event();
  Queue queue{wake.ref()};
};

// Answers each request with itself in capitals.
Result<Verdict> echo(Chain& chain) {
  std::string text(chain.reader.remaining(), '?');
  TRY(chain.reader.read(std::as_writable_bytes(std::span(text))));
  for (char& c : text) c = static_cast<char>(c - 'a' + 'A');
  TRY(chain.writer.write(std::as_bytes(std::span(text))));
  return done(chain.writer.written());
}

Result<Verdict> done_nothing(Chain&) { return done(0); }

TEST_CASE("a chain is read, answered and given back, direct and indirect") {
  Setup s;
  for (const bool indirect : {false, true}) {
    const auto answer1 = s.driver.writable(2);
    const auto answer2 = s.driver.writable(10);
    const std::vector buffers = {s.driver.readable("abc"), s.driver.readable("de"), answer1,
                                 answer2};
    const uint16_t head = indirect ? s.driver.add_indirect(buffers) : s.driver.add(buffers);
    CHECK_FALSE(s.queue.drain(echo).value());
    const auto given_back = s.driver.take_used();
    REQUIRE(given_back.has_value());
    CHECK_EQ(given_back->id, head);
    CHECK_EQ(given_back->length, 5);
    CHECK_EQ(s.driver.text(answer1.range), "AB");
    CHECK_EQ(s.driver.text(answer2.range).substr(0, 3), "CDE");
    CHECK_FALSE(s.driver.take_used().has_value());
  }
}

TEST_CASE("an indirect table may follow direct buffers and its WRITE flag is ignored") {
  Setup s;
  const auto direct = s.driver.readable("ab");
  const auto table = s.driver.writable(32);
  const auto more = s.driver.readable("cd");
  const auto answer = s.driver.writable(4);
  const GuestSpan entries = *s.memory.view(table.range);
  entries.store(0, Descriptor{more.range.start.value, 2, kDescriptorNext, 1});
  entries.store(16, Descriptor{answer.range.start.value, 4, kDescriptorWrite, 0});
  s.driver.write_descriptor(0, {direct.range.start.value, 2, kDescriptorNext, 5});
  s.driver.write_descriptor(
      5, {table.range.start.value, 32, kDescriptorIndirect | kDescriptorWrite, 0});
  s.driver.make_available(0);
  CHECK_FALSE(s.queue.drain(echo).value());
  CHECK_EQ(s.driver.text(answer.range), "ABCD");
}

TEST_CASE("a buffer of no bytes adds nothing, wherever it points") {
  Setup s;
  const auto text = s.driver.readable("abc");
  const auto answer = s.driver.writable(3);
  s.driver.add({{{Gpa{~uint64_t{0}}, 0}, false}, text, {{Gpa{1}, 0}, true}, answer});
  CHECK_FALSE(s.queue.drain(echo).value());
  CHECK_EQ(s.driver.text(answer.range), "ABC");
  s.driver.add({{{Gpa{7}, 0}, true}});
  CHECK_FALSE(s.queue.drain(echo).value());
  CHECK_EQ(s.driver.used_index(), 2);
}

TEST_CASE("chains taken with later() come back in any order") {
  Setup s;
  const uint16_t first = s.driver.add({s.driver.writable(8)});
  const uint16_t second = s.driver.add({s.driver.writable(8)});
  CHECK_FALSE(s.queue.drain([](Chain&) -> Result<Verdict> { return later(); }).value());
  CHECK_FALSE(s.driver.take_used().has_value());
  CHECK_FALSE(s.queue.take_interrupt());
  s.queue.complete(second, 2);
  s.queue.complete(first, 1);
  CHECK_EQ(s.driver.take_used()->id, second);
  CHECK_EQ(s.driver.take_used()->id, first);
  CHECK(s.queue.take_interrupt());
  CHECK_EQ(s.queue.state().next_avail, 2);
  CHECK_EQ(s.queue.state().next_used, 2);
}

TEST_CASE("a chain that was stopped at is handed out again") {
  Setup s;
  const uint16_t head = s.driver.add({s.driver.writable(8)});
  for (int i = 0; i < 3; ++i) {
    CHECK_FALSE(s.queue.drain([](Chain&) -> Result<Verdict> { return stop(); }).value());
    CHECK_EQ(s.queue.state().next_avail, 0);
  }
  CHECK_FALSE(s.queue.drain(done_nothing).value());
  CHECK_EQ(s.driver.take_used()->id, head);
}

TEST_CASE("indices wrap around at 16 bits, from any start") {
  for (const bool event_idx : {false, true}) {
    Setup s(event_idx, 4, 0xfffd);
    for (uint32_t i = 0; i < 70'000; ++i) {
      const uint16_t head = s.driver.build({{{Gpa{0x100}, 4}, true}});
      s.driver.make_available(head);
      s.driver.want_interrupt();
      if (!s.driver.kick_wanted()) FAIL("no kick wanted at " << i);
      if (s.queue.drain(done_nothing).value()) FAIL("not drained at " << i);
      if (!s.queue.take_interrupt()) FAIL("no interrupt at " << i);
      const auto element = s.driver.take_used();
      if (!element || element->id != head) FAIL("wrong head at " << i);
    }
  }
}

TEST_CASE("event_idx: the 2.7.10 comparison, at every distance around the wrap") {
  // By definition: one of the steps before+1 .. now lands on event+1.
  for (const uint16_t before : std::initializer_list<uint16_t>{0, 1, 100, 0xfffe, 0xffff}) {
    for (uint16_t moved = 0; moved < 20; ++moved) {
      for (int distance = -25; distance < 25; ++distance) {
        const auto now = static_cast<uint16_t>(before + moved);
        const auto event = static_cast<uint16_t>(before + distance);
        const bool expected = distance >= 0 && distance < moved;
        CHECK_EQ(event_passed(event, now, before), expected);
      }
    }
  }
}

TEST_CASE("event_idx: an interrupt is sent when used_event is passed, once per batch") {
  Setup s(true);
  const auto use = [&s](int chains) {
    for (int i = 0; i < chains; ++i) {
      s.driver.add({{{Gpa{0x100}, 4}, true}});
      CHECK_FALSE(s.queue.drain(done_nothing).value());
      s.driver.take_used();
    }
  };
  use(1);
  CHECK(s.queue.take_interrupt());  // the first one always
  CHECK_FALSE(s.queue.take_interrupt());
  s.driver.set_used_event(3);  // after the fourth
  use(2);
  CHECK_FALSE(s.queue.take_interrupt());
  use(1);
  CHECK(s.queue.take_interrupt());
  use(1);
  CHECK_FALSE(s.queue.take_interrupt());
  s.driver.set_used_event(6);
  use(8);
  CHECK(s.queue.take_interrupt());
  s.driver.set_avail_flags(kAvailNoInterrupt);  // means nothing with event_idx
  s.driver.want_interrupt();
  s.driver.set_avail_flags(kAvailNoInterrupt);
  use(1);
  CHECK(s.queue.take_interrupt());
}

TEST_CASE("without event_idx the flags decide") {
  Setup s;
  s.driver.set_avail_flags(kAvailNoInterrupt);
  s.driver.add({s.driver.writable(4)});
  CHECK_FALSE(s.queue.drain(done_nothing).value());
  CHECK_FALSE(s.queue.take_interrupt());
  s.driver.set_avail_flags(0);
  CHECK_FALSE(s.queue.take_interrupt());  // that batch is over
  s.driver.add({s.driver.writable(4)});
  CHECK_FALSE(s.queue.drain(done_nothing).value());
  CHECK(s.queue.take_interrupt());

  s.queue.disable_notifications();
  CHECK_EQ(s.driver.used_flags(), kUsedNoNotify);
  s.driver.add({s.driver.writable(4)});
  CHECK_FALSE(s.driver.kick_wanted());
  CHECK_FALSE(s.queue.drain(done_nothing).value());
  CHECK_EQ(s.driver.used_flags(), 0);
  s.driver.add({s.driver.writable(4)});
  CHECK(s.driver.kick_wanted());
}

TEST_CASE("event_idx: the driver is asked to kick for the next chain only after a drain") {
  Setup s(true);
  s.driver.add({s.driver.writable(4)});
  CHECK(s.driver.kick_wanted());
  s.driver.add({s.driver.writable(4)});
  CHECK_FALSE(s.driver.kick_wanted());
  CHECK_FALSE(s.queue.drain(done_nothing).value());
  CHECK_EQ(s.driver.avail_event(), 2);
  s.queue.disable_notifications();
  CHECK_EQ(s.driver.used_flags(), 0);
  s.driver.add({s.driver.writable(4)});
  CHECK(s.driver.kick_wanted());
}

TEST_CASE("a device that comes back leaves the driver quiet until it finds nothing") {
  for (const bool event_idx : {true, false}) {
    Setup s(event_idx);
    s.driver.add({s.driver.writable(4)});
    CHECK(s.driver.kick_wanted());
    CHECK_FALSE(s.queue.drain(done_nothing, WhenEmpty::kComeBack).value());
    CHECK(s.driver.take_used().has_value());
    s.driver.add({s.driver.writable(4)});
    CHECK_FALSE(s.driver.kick_wanted());
    CHECK_FALSE(s.queue.drain(done_nothing, WhenEmpty::kNotify).value());
    CHECK(s.driver.take_used().has_value());
    s.driver.add({s.driver.writable(4)});
    CHECK(s.driver.kick_wanted());
  }
}

TEST_CASE("a device with chains waiting is told of the next, once, or that it is there already") {
  for (const bool event_idx : {true, false}) {
    Setup s(event_idx);
    for (int i = 0; i < 3; ++i) s.driver.add({s.driver.writable(4)});
    CHECK(s.driver.kick_wanted());
    CHECK_EQ(s.queue.available(), 3);
    CHECK_FALSE(s.queue.notify_beyond(3));
    s.driver.add({s.driver.writable(4)});
    CHECK(s.driver.kick_wanted());
    CHECK(s.queue.notify_beyond(3));
    s.queue.reset();
    CHECK_EQ(s.queue.available(), 0);
    CHECK_FALSE(s.queue.notify_beyond(3));
  }
}

TEST_CASE("a chain added while the ring was being found empty is served at once") {
  Setup s(true);
  s.driver.add({s.driver.writable(4)});
  int served = 0;
  const auto handler = [&](Chain&) -> Result<Verdict> {
    if (++served == 1) s.driver.add({s.driver.writable(4)});
    return done(0);
  };
  CHECK_FALSE(s.queue.drain(handler).value());
  CHECK_EQ(served, 2);
}

TEST_CASE("a guest that keeps adding holds the loop for size() chains, then is kicked for") {
  Setup s;
  int served = 0;
  const auto handler = [&](Chain& chain) -> Result<Verdict> {
    ++served;
    s.driver.make_available(chain.head);
    return done(0);
  };
  s.driver.add({s.driver.writable(4)});
  CHECK(s.queue.drain(handler).value());
  CHECK_EQ(served, 8);
  uint64_t wakes = 0;
  REQUIRE_EQ(::read(s.wake.number(), &wakes, 8), 8);
  CHECK_EQ(wakes, 1);
  CHECK_FALSE(s.queue.drain(done_nothing).value());
  CHECK_EQ(::read(s.wake.number(), &wakes, 8), -1);
}

TEST_CASE("a frozen queue hands out nothing, and takes back what the device has") {
  Setup s;
  const uint16_t head = s.driver.add({s.driver.writable(4)});
  CHECK_FALSE(s.queue.drain([](Chain&) -> Result<Verdict> { return later(); }).value());
  s.driver.add({s.driver.writable(4)});
  s.queue.set_frozen(true);
  CHECK(s.queue.ready());
  CHECK_FALSE(s.queue.drain(done_nothing).value());
  CHECK_EQ(s.queue.state().next_avail, 1);
  s.queue.complete(head, 0);
  CHECK_EQ(s.driver.used_index(), 1);
  s.queue.set_frozen(false);
  CHECK_FALSE(s.queue.drain(done_nothing).value());
  CHECK_EQ(s.driver.used_index(), 2);
}

TEST_CASE("state() of one queue carries on in another") {
  Setup s(true, 8, 0xffff);
  s.driver.add({s.driver.writable(4)});
  s.driver.add({s.driver.writable(4)});
  CHECK_FALSE(s.queue.drain(done_nothing).value());
  const QueueState state = s.queue.state();
  CHECK_EQ(state.next_avail, 1);
  CHECK_EQ(state.next_used, 1);
  s.queue.reset();
  CHECK_FALSE(s.queue.ready());

  Queue restored;
  REQUIRE(restored.activate(s.memory, state, 8, true, true).has_value());
  CHECK_EQ(restored.state(), state);
  const uint16_t head = s.driver.add({s.driver.writable(4)});
  CHECK_FALSE(restored.drain(done_nothing).value());
  CHECK(restored.take_interrupt());
  s.driver.take_used();
  s.driver.take_used();
  CHECK_EQ(s.driver.take_used()->id, head);
}

TEST_CASE("nothing is allocated after activate()") {
  Setup s(true);
  std::vector<testing::GuestBuffer> buffers = {s.driver.readable("abc"), s.driver.writable(3)};
  s.driver.add(buffers);
  s.driver.add_indirect(buffers);
  const int before = allocations;
  const Result<bool> more = s.queue.drain([](Chain& chain) -> Result<Verdict> {
    const auto first = TRY(chain.reader.read_object<uint16_t>());
    TRY(chain.writer.write_object(first));
    return done(chain.writer.written());
  });
  const bool interrupt = s.queue.take_interrupt();
  const int after = allocations;
  CHECK_EQ(after, before);
  CHECK_FALSE(more.value());
  CHECK(interrupt);
  CHECK_EQ(s.driver.used_index(), 2);
}

TEST_CASE("a driver and a device on two threads lose no chain and no wake-up") {
  for (const bool event_idx : {false, true}) {
    Setup s(event_idx, 16);
    constexpr uint32_t kChains = 20'000;
    std::atomic<bool> kicked = false;
    std::atomic<bool> interrupted = false;
    std::atomic<bool> stuck = false;
    const auto wait_for = [&stuck](std::atomic<bool>& flag) {
      for (int i = 0; !flag.exchange(false); ++i) {
        if (i > 20'000'000) stuck = true;
        if (stuck) return false;
        if (i > 100) std::this_thread::yield();
      }
      return true;
    };
    std::thread device([&] {
      for (uint32_t served = 0; served < kChains;) {
        if (!wait_for(kicked)) return;
        const auto more = s.queue.drain([&](Chain&) -> Result<Verdict> {
          ++served;
          return done(0);
        });
        if (!more) stuck = true;
        if (more.value_or(false)) kicked = true;
        if (s.queue.take_interrupt()) interrupted = true;
      }
    });
    uint32_t taken = 0;
    uint32_t added = 0;
    const std::vector<testing::GuestBuffer> buffers = {{{Gpa{0x100}, 4}, true}};
    while (taken < kChains && !stuck) {
      while (added < kChains && added - taken < 16) {
        s.driver.add(buffers);
        ++added;
        if (s.driver.kick_wanted()) kicked = true;
      }
      const uint32_t before = taken;
      while (s.driver.take_used()) ++taken;
      if (taken != before) continue;
      s.driver.want_interrupt();
      std::atomic_thread_fence(std::memory_order_seq_cst);
      if (s.driver.take_used()) {
        ++taken;
      } else {
        wait_for(interrupted);
      }
    }
    device.join();
    CHECK_FALSE(stuck);
    CHECK_EQ(taken, kChains);
  }
}

}  // namespace
}  // namespace mayfly::virtio
