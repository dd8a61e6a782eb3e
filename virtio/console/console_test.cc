// SPDX-License-Identifier: Apache-2.0
#include "virtio/console/console.h"

#include "virtio/console/ring_sink.h"
#include "virtio/queue/testing/device_harness.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>

namespace mayfly::virtio::console {
namespace {

using testing::DeviceHarness;

class TextSink final : public ConsoleSink {
 public:
  explicit TextSink(std::string& to) : text(to) {}
  void append(std::span<const std::byte> bytes) override {
    largest = std::max(largest, bytes.size());
    for (const std::byte byte : bytes) text += static_cast<char>(byte);
  }
  std::string& text;
  size_t largest = 0;
};

class TextInput final : public ConsoleInput {
 public:
  void attach(InputClient& its_client) override { client = &its_client; }
  size_t read(std::span<std::byte> out) override {
    ++reads;
    const size_t size = std::min(out.size(), waiting.size());
    std::memcpy(out.data(), waiting.data(), size);
    waiting.erase(0, size);
    return size;
  }
  void arrive(std::string_view text) {
    waiting += text;
    client->on_input();
  }
  InputClient* client = nullptr;
  std::string waiting;
  int reads = 0;
};

struct Setup {
  std::string output;
  TextSink* sink = new TextSink(output);  // both owned by the device
  TextInput* input = new TextInput;
  Console device{std::unique_ptr<ConsoleSink>(sink), std::unique_ptr<ConsoleInput>(input)};
  DeviceHarness harness{device, {.memory_bytes = 64 << 20, .data_size = 16 << 20}};
  testing::FakeDriver& rx = harness.driver(0);
  testing::FakeDriver& tx = harness.driver(1);
};

TEST_CASE("output goes to the sink, in order and in bounded pieces") {
  Setup s;
  s.harness.activate();
  const std::string large(10'000, 'x');
  s.tx.add({s.tx.readable("hello "), s.tx.readable("world\n")});
  s.tx.add_indirect({s.tx.readable(large), s.tx.readable("end")});
  s.tx.add({s.tx.writable(4)});
  s.harness.notify(1);
  CHECK_EQ(s.output, "hello world\n" + large + "end");
  CHECK_LE(s.sink->largest, 4096);
  for (int i = 0; i < 3; ++i) CHECK_EQ(s.tx.take_used()->length, 0);
  CHECK_EQ(s.harness.used_calls[1], 1);
  CHECK_EQ(s.device.counters().output_bytes, 10'015);
}

TEST_CASE("of a huge request the first 64 KiB are shown") {
  Setup s;
  s.harness.activate();
  const auto buffer = s.tx.writable(8 << 20);
  s.tx.add({{buffer.range, false}});
  s.harness.notify(1);
  CHECK_EQ(s.output.size(), kMaxBytesPerRequest);
  CHECK_EQ(s.device.counters().dropped_bytes, (8 << 20) - kMaxBytesPerRequest);
  CHECK(s.tx.take_used().has_value());
}

TEST_CASE("input fills the guest's buffers, and waits while there are none") {
  Setup s;
  s.input->arrive("early ");
  s.harness.activate();
  CHECK_EQ(s.input->reads, 0);
  s.harness.notify(0);
  s.input->arrive("bird");
  CHECK_EQ(s.input->reads, 0);

  const auto first = s.rx.writable(4);
  const auto second = s.rx.writable(100);
  const auto third = s.rx.writable(100);
  s.rx.add({first});
  s.rx.add({second});
  s.rx.add({third});
  s.harness.notify(0);
  CHECK_EQ(s.rx.take_used()->length, 4);
  CHECK_EQ(s.rx.take_used()->length, 6);
  CHECK_FALSE(s.rx.take_used().has_value());
  CHECK_EQ(s.rx.text(first.range), "earl");
  CHECK_EQ(s.rx.text(second.range).substr(0, 6), "y bird");

  s.input->arrive("more");
  CHECK_EQ(s.rx.take_used()->length, 4);
  CHECK_EQ(s.rx.text(third.range).substr(0, 4), "more");
  CHECK_EQ(s.device.counters().input_bytes, 14);
}

TEST_CASE("receive buffers without room are given back") {
  Setup s;
  s.harness.activate();
  s.rx.add({s.rx.readable("not writable")});
  const auto buffer = s.rx.writable(8);
  s.rx.add({buffer});
  s.input->arrive("text");
  CHECK_EQ(s.rx.take_used()->length, 0);
  CHECK_EQ(s.rx.take_used()->length, 4);
  CHECK_EQ(s.rx.text(buffer.range).substr(0, 4), "text");
}

TEST_CASE("without an input the guest receives nothing") {
  std::string output;
  Console device(std::make_unique<TextSink>(output), nullptr);
  DeviceHarness harness(device);
  harness.activate();
  harness.driver(0).add({harness.driver(0).writable(8)});
  harness.notify(0);
  CHECK_EQ(harness.driver(0).used_index(), 0);
}

TEST_CASE("a broken ring asks for a reset, after which the device works again") {
  Setup s;
  s.harness.activate();
  s.tx.set_avail_index(1000);
  s.harness.notify(1);
  CHECK_EQ(s.harness.reset_reason, "QUEUE_AVAIL_INDEX");
  s.device.reset();
  s.input->arrive("text");
  s.harness.notify(1);
  CHECK_EQ(s.harness.resets_wanted, 1);
  CHECK(s.device.idle());

  s.tx.reset();
  s.harness.activate();
  s.tx.add({s.tx.readable("again")});
  s.harness.notify(1);
  CHECK_EQ(s.output, "again");
}

TEST_CASE("the configuration space tells the size, if there is one") {
  Setup without;
  CHECK_EQ(without.device.features(), 0);
  std::string output;
  Console device(std::make_unique<TextSink>(output), nullptr, {132, 43});
  CHECK_EQ(device.features(), kFeatureSize);
  Config config;
  device.read_config(0, std::as_writable_bytes(std::span(&config, 1)));
  CHECK_EQ(config.columns, 132);
  CHECK_EQ(config.rows, 43);
  std::array<std::byte, 8> bytes;
  for (const uint64_t offset : {uint64_t{11}, uint64_t{12}, ~uint64_t{0}}) {
    bytes.fill(std::byte{0xff});
    device.read_config(offset, bytes);
    CHECK_EQ(bytes, std::array<std::byte, 8>{});
    device.write_config(offset, bytes);
  }
}

TEST_CASE("state is the size, and half a size is refused") {
  std::string output;
  Console from(std::make_unique<TextSink>(output), nullptr, {80, 25});
  Console to(std::make_unique<TextSink>(output), nullptr);
  CHECK_EQ(to.restore({80, 0}).error().reason(), "CONSOLE_STATE");
  CHECK_EQ(to.features(), 0);
  REQUIRE(to.restore(from.save()).has_value());
  CHECK_EQ(to.save(), from.save());
  CHECK_EQ(to.features(), kFeatureSize);
}

TEST_CASE("the ring sink appends to the ring") {
  const Fd file = *Fd::memfd("ring", 8192);
  const Fd event = *Fd::event();
  ConsoleRingWriter writer = *ConsoleRingWriter::create(file.ref(), event.ref());
  RingSink sink(writer);
  sink.append(std::as_bytes(std::span(std::string_view("abc"))));
  CHECK_EQ(ConsoleRingReader::create(file.ref())->written(), 3);
}

}  // namespace
}  // namespace mayfly::virtio::console
