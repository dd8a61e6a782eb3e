// SPDX-License-Identifier: Apache-2.0
//
// Random rings under the console, with input that never ends: the input's first half is the receive
// queue's memory, the second the transmit queue's.
#include "virtio/console/console.h"

#include "virtio/queue/testing/device_harness.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace {

using namespace mayfly;
using namespace mayfly::virtio;

constexpr uint64_t kRingBytes = 8 * 1024;

class CountingSink final : public console::ConsoleSink {
 public:
  void append(std::span<const std::byte> bytes) override { total += bytes.size(); }
  uint64_t total = 0;
};

class EndlessInput final : public console::ConsoleInput {
 public:
  void attach(console::InputClient& its_client) override { client = &its_client; }
  size_t read(std::span<std::byte> out) override {
    std::ranges::fill(out, std::byte{'x'});
    return out.size();
  }
  console::InputClient* client = nullptr;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto input = std::make_unique<EndlessInput>();
  EndlessInput& endless = *input;
  console::Console device(std::make_unique<CountingSink>(), std::move(input), {80, 25});
  testing::DeviceHarness harness(device, {.memory_bytes = 512 * 1024, .data_size = 64 * 1024});
  harness.activate();
  const std::span bytes = std::as_bytes(std::span(data, size));
  const std::span<const std::byte> halves[] = {bytes.first(size / 2), bytes.subspan(size / 2)};
  for (size_t i = 0; i < 2; ++i) {
    const Gpa rings = harness.driver(i).queue_state().descriptors;
    // MUST: the rings and the data after them are in RAM.
    MUST(harness.memory().view({rings, kRingBytes}))
        .write(0, halves[i].first(std::min<size_t>(halves[i].size(), kRingBytes)));
  }
  for (int i = 0; i < 3; ++i) {
    harness.notify(0);
    harness.notify(1);
    endless.client->on_input();
  }
  device.reset();
  endless.client->on_input();
  return 0;
}
