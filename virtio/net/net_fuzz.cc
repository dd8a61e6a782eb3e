// SPDX-License-Identifier: Apache-2.0
//
// Random rings under the network device: the first bytes choose features and the frames that wait,
// the rest is guest memory from the receive queue's rings on, all three queues' among it.
#include "virtio/net/net.h"

#include "virtio/net/testing/fake_backend.h"
#include "virtio/queue/testing/device_harness.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace {

constexpr mayfly::virtio::net::MacAddress kMac = {0x02, 0, 0, 0, 0, 1};
constexpr size_t kChoices = 4;
// All three queues' rings, with what is between them, and some more for what they point to.
constexpr size_t kInputBytes = 64 * 1024;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mayfly;
  using namespace mayfly::virtio;
  if (size < kChoices) return 0;
  auto* backend = new net::testing::FakeBackend(
      {.csum = true, .tso4 = true, .tso6 = true, .ecn = true, .uso = true});
  // MUST: the address and the MTU are good.
  const auto device = MUST(net::Net::create(std::unique_ptr<net::Backend>(backend), kMac, 1500));
  testing::DeviceHarness harness(*device, {.memory_bytes = 1 << 20, .data_size = 4096});
  uint64_t features = kFeatureVersion1 | net::kFeatureCtrlVq;
  if ((data[0] & 1) != 0) features |= net::kFeatureMrgRxbuf;
  if ((data[0] & 2) != 0) features |= net::kFeatureGuestCsum | net::kFeatureGuestTso4;
  harness.activate(features);
  const Gpa rings = harness.driver(0).queue_state().descriptors;
  const std::span input = std::as_bytes(std::span(data, size))
                              .subspan(kChoices)
                              .first(std::min(size - kChoices, kInputBytes));
  // MUST: they are in RAM.
  MUST(harness.memory().view({rings, kInputBytes})).write(0, input);
  backend->next_header = {.flags = static_cast<uint8_t>(data[1] & 1),
                          .gso_type = static_cast<uint8_t>((data[1] >> 1) & 1)};
  for (int turn = 0; turn < 3; ++turn) {
    backend->waiting.emplace_back(size_t{data[2]} * 260);
    backend->waiting.emplace_back(size_t{data[3]});
    backend->lost = turn == 2 && (data[0] & 4) != 0;
    if (turn == 1) backend->refuses = net::IoStatus::kWouldBlock;
    for (uint16_t queue = 0; queue < 3; ++queue) harness.notify(queue);
    backend->frames_wait();
    backend->refuses.reset();
    backend->room_to_send();
  }
  device->reset();
  return 0;
}
