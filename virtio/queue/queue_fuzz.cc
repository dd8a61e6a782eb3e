// SPDX-License-Identifier: Apache-2.0
//
// Random rings: the input's first bytes say how the queue is set up, the rest is the guest's
// memory, written again over itself between drains. Whatever it holds, every byte a handler reaches
// is RAM.
#include "virtio/queue/queue.h"

#include "virtio/queue/testing/fake_driver.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace {

using namespace mayfly;
using namespace mayfly::virtio;

constexpr uint64_t kMemory = 64 * 1024;
constexpr int kDrains = 4;

struct Setup {
  uint8_t size_shift;
  uint8_t flags;  // 1 event_idx, 2 indirect, 4 keep the rings at their usual places
  uint8_t verdicts;
  uint8_t stride;
  uint16_t next_avail;
  uint16_t next_used;
  uint16_t descriptors;
  uint16_t driver_area;
  uint16_t device_area;
};

Result<Verdict> serve(Chain& chain, uint8_t verdicts) {
  std::array<std::byte, 64> bytes;
  std::array<iovec, 4> vectors;
  (void)chain.writer.take_tail(1);
  (void)chain.reader.skip(3);
  (void)chain.reader.take_iovecs(17, vectors);
  while (chain.reader.read_some(bytes) != 0) {
  }
  (void)chain.writer.take_iovecs(9, vectors);
  chain.writer.write_some(bytes);
  switch ((verdicts >> (chain.head % 4 * 2)) & 3) {
    case 0:
    case 1:
      return done(chain.writer.written());
    case 2:
      return later();
    default:
      return stop();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const GuestMemory memory = testing::make_memory(kMemory);
  std::span<const std::byte> input = std::as_bytes(std::span(data, size));
  Setup setup{};
  if (input.size() < sizeof(setup)) return 0;
  std::ranges::copy(input.first(sizeof(setup)),
                    std::as_writable_bytes(std::span(&setup, 1)).begin());
  input = input.subspan(sizeof(setup));

  QueueState state{.size = static_cast<uint16_t>(1U << (setup.size_shift % 10)),
                   .ready = true,
                   .descriptors = Gpa{setup.descriptors},
                   .driver_area = Gpa{setup.driver_area},
                   .device_area = Gpa{setup.device_area},
                   .next_avail = setup.next_avail,
                   .next_used = setup.next_used};
  if ((setup.flags & 4) != 0) {
    state.descriptors = Gpa{0};
    state.driver_area = Gpa{uint64_t{16} * state.size};
    state.device_area = Gpa{uint64_t{20} * state.size + 8};
    state.next_avail = state.next_used = 0;
  }
  const GuestSpan ram = *memory.view({Gpa{0}, kMemory});
  ram.zero(0, kMemory);
  Queue queue;
  const bool event_idx = (setup.flags & 1) != 0;
  if (!queue.activate(memory, state, kMaxQueueSize, event_idx, (setup.flags & 2) != 0)) return 0;
  for (int i = 0; i < kDrains && queue.ready(); ++i) {
    const uint64_t shift = static_cast<uint64_t>(i) * setup.stride;
    ram.write(shift, input.first(std::min<size_t>(input.size(), kMemory - shift)));
    (void)queue.drain([&](Chain& chain) { return serve(chain, setup.verdicts); });
    queue.complete(0, 0);
    (void)queue.take_interrupt();
    queue.disable_notifications();
  }
  return 0;
}
