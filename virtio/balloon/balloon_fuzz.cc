// SPDX-License-Identifier: Apache-2.0
//
// Random rings under the balloon: the input is guest memory from the rings on. What is given back
// must be whole pages of RAM, and no more of it than the device says it takes at once.
#include "virtio/balloon/balloon.h"

#include "virtio/queue/testing/device_harness.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

namespace {

using namespace mayfly;
using namespace mayfly::virtio;

constexpr uint64_t kMemoryBytes = 512 * 1024;

class CheckingTaker final : public balloon::PageTaker {
 public:
  Result<GuestSpan> find(GuestRange range) const override { return memory->view(range); }
  Result<> take(const GuestSpan& pages) override {
    if (pages.size() == 0 || pages.whole_pages().size() != pages.size()) std::abort();
    if (pages.size() > kMemoryBytes) std::abort();
    taken_bytes += pages.size();
    return {};
  }

  const GuestMemory* memory = nullptr;
  uint64_t taken_bytes = 0;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  auto owned = std::make_unique<CheckingTaker>();
  CheckingTaker& taker = *owned;
  balloon::Balloon device(std::move(owned), {true, true, 1}, 16);
  testing::DeviceHarness harness(device, {.memory_bytes = kMemoryBytes, .data_size = 16 * 1024});
  taker.memory = &harness.memory();
  harness.activate();
  const Gpa rings = harness.driver(0).queue_state().descriptors;
  const std::span input = std::as_bytes(std::span(data, std::min<size_t>(size, 96 * 1024)));
  // MUST: the rings of all queues and what lies between them are in RAM.
  MUST(harness.memory().view({rings, 96 * 1024})).write(0, input);
  const auto queues = static_cast<uint16_t>(device.queue_sizes().size());
  for (int turn = 0; turn < 2; ++turn) {
    for (uint16_t queue = 0; queue < queues; ++queue) {
      taker.taken_bytes = 0;
      harness.notify(queue);
      const uint64_t most =
          queue == 0 ? balloon::kQueueSize * balloon::kMaxPagesPerRequest * balloon::kPageBytes
                     : balloon::kMaxReportedBytes;
      if (taker.taken_bytes > most) std::abort();
    }
    device.ask_for_stats();
  }
  device.reset();
  return 0;
}
