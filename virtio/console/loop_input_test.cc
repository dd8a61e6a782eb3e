// SPDX-License-Identifier: Apache-2.0
#include "virtio/console/loop_input.h"

#include "virtio/console/console.h"
#include "virtio/queue/testing/device_harness.h"

#include <doctest/doctest.h>

#include <string>
#include <string_view>

#include <fcntl.h>
#include <sys/socket.h>

namespace mayfly::virtio::console {
namespace {

class NoSink final : public ConsoleSink {
 public:
  void append(std::span<const std::byte>) override {}
};

class Counter final : public InputClient {
 public:
  void on_input() override { ++calls; }
  int calls = 0;
};

void send(const Fd& fd, std::string_view text) {
  REQUIRE(write_all(fd.ref(), std::as_bytes(std::span(text))).has_value());
}

// One batch, also where nothing is to come.
void run(Loop& loop) {
  loop.wake();
  REQUIRE(loop.run_once().has_value());
}

std::string take(LoopInput& input, size_t room) {
  std::string text(room, '?');
  text.resize(input.read(std::as_writable_bytes(std::span(text))));
  return text;
}

TEST_CASE("what arrives is announced, read in pieces, and its end closes the descriptor") {
  const auto loop = *Loop::create({});
  auto [reading, writing] = *Fd::pipe();
  const int number = reading.number();
  const auto input = *LoopInput::create(*loop, std::move(reading));
  Counter client;
  input->attach(client);
  run(*loop);
  CHECK_EQ(client.calls, 0);
  CHECK_EQ(take(*input, 10), "");

  send(writing, "hello");
  run(*loop);
  CHECK_GE(client.calls, 1);
  CHECK_EQ(take(*input, 2), "he");
  CHECK_EQ(take(*input, 10), "llo");
  CHECK_EQ(take(*input, 10), "");

  const int calls = client.calls;
  send(writing, "bye");
  writing.reset();
  run(*loop);
  CHECK_GT(client.calls, calls);
  CHECK_EQ(take(*input, 10), "bye");
  CHECK_EQ(::fcntl(number, F_GETFD), FD_CLOEXEC);
  CHECK_EQ(take(*input, 10), "");
  CHECK_EQ(::fcntl(number, F_GETFD), -1);
  run(*loop);
  CHECK_EQ(take(*input, 10), "");
}

TEST_CASE("input goes from a socket through the loop into the guest, when it has room") {
  const auto loop = *Loop::create({});
  auto [ours, theirs] = *Fd::socket_pair(SOCK_STREAM);
  Console device(std::make_unique<NoSink>(), *LoopInput::create(*loop, std::move(ours)));
  testing::DeviceHarness harness(device);
  harness.activate();
  testing::FakeDriver& rx = harness.driver(0);
  send(theirs, "hello");
  run(*loop);
  CHECK_EQ(rx.used_index(), 0);
  const auto first = rx.writable(3);
  const auto second = rx.writable(3);
  rx.add({first});
  rx.add({second});
  harness.notify(0);
  CHECK_EQ(rx.text(first.range), "hel");
  CHECK_EQ(rx.text(second.range).substr(0, 2), "lo");
  const auto third = rx.writable(3);
  rx.add({third});
  harness.notify(0);
  CHECK_EQ(rx.used_index(), 2);
  send(theirs, "x");
  theirs.reset();
  run(*loop);
  CHECK_EQ(rx.used_index(), 3);
  CHECK_EQ(rx.text(third.range).substr(0, 1), "x");
  run(*loop);
  CHECK_EQ(harness.resets_wanted, 0);
}

TEST_CASE("more input than a drain takes is carried on by the queue's own notification") {
  const auto loop = *Loop::create({});
  auto [reading, writing] = *Fd::pipe();
  Console device(std::make_unique<NoSink>(), *LoopInput::create(*loop, std::move(reading)));
  testing::DeviceHarness harness(device);
  harness.activate();
  testing::FakeDriver& rx = harness.driver(0);
  send(writing, std::string(200, 'x'));
  for (int i = 0; i < kQueueSize; ++i) rx.add({rx.writable(1)});
  run(*loop);
  CHECK_EQ(rx.used_index(), kQueueSize);
  while (rx.take_used()) {
  }
  rx.add({rx.writable(300)});
  harness.notify(0);
  CHECK_EQ(rx.take_used()->length, 200 - kQueueSize);
}

TEST_CASE("an input that goes away with its device leaves nothing in the loop") {
  const auto loop = *Loop::create({.ring_entries = 16, .files = 3, .clients = 1});
  for (int i = 0; i < 5; ++i) {
    auto [reading, writing] = *Fd::pipe();
    auto input = LoopInput::create(*loop, std::move(reading));
    REQUIRE(input.has_value());
    send(writing, "late");
    input->reset();
    run(*loop);
  }
}

}  // namespace
}  // namespace mayfly::virtio::console
