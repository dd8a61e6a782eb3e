// SPDX-License-Identifier: Apache-2.0
#include "tests/probe/probe.h"
#include "tests/probe/virtio.h"

namespace probe {
namespace {

constexpr uint32_t kSize = 64;
constinit Queue queue{};

uint32_t differing(const uint8_t* a, const uint8_t* b) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < kSize; ++i) count += a[i] != b[i] ? 1 : 0;
  return count;
}

}  // namespace

void test_rng() {
  Device device = Device::find(DeviceId::kRng);
  require(device.exists(), "no entropy device");
  device.negotiate(0);
  device.set_up(0, queue, 8);
  device.go();
  static uint8_t rounds[4][kSize];
  static const uint8_t zeros[kSize] = {};
  for (auto& bytes : rounds) {
    UsedElement element;
    queue.add({{bytes, kSize, true}});
    device.kick(0);
    require(wait(device, queue, element, kPatience) == Outcome::kUsed, "no answer");
    require(element.length > 0 && element.length <= kSize, "an impossible length");
    require(element.length == kSize, "fewer bytes than asked for");
    require(differing(bytes, zeros) > kSize / 2, "the bytes are mostly zero");
  }
  for (int i = 1; i < 4; ++i) {
    require(differing(rounds[i], rounds[i - 1]) > kSize / 2, "two answers are alike");
  }
}

}  // namespace probe
