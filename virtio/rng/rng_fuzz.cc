// SPDX-License-Identifier: Apache-2.0
//
// Random rings under the entropy device: the input is guest memory from the rings on.
#include "virtio/rng/rng.h"

#include "virtio/queue/testing/device_harness.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace {

class ConstantEntropy final : public mayfly::virtio::rng::EntropySource {
 public:
  mayfly::Result<> fill(std::span<std::byte> out) override {
    std::ranges::fill(out, std::byte{0x5a});
    return {};
  }
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mayfly;
  using namespace mayfly::virtio;
  rng::Rng device(std::make_unique<ConstantEntropy>());
  testing::DeviceHarness harness(device, {.memory_bytes = 512 * 1024});
  harness.activate();
  const Gpa rings = harness.driver(0).queue_state().descriptors;
  const std::span input = std::as_bytes(std::span(data, std::min<size_t>(size, 64 * 1024)));
  // MUST: the rings and 64 KiB after them are in RAM.
  MUST(harness.memory().view({rings, 64 * 1024})).write(0, input);
  for (int i = 0; i < 3; ++i) harness.notify(0);
  device.reset();
  return 0;
}
