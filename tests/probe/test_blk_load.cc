// SPDX-License-Identifier: Apache-2.0
//
// Reads or writes of 4 KiB, `depth` of them in flight at all times.
#include "tests/probe/blk.h"
#include "tests/probe/load.h"

namespace probe {
namespace {

constexpr uint16_t kMaxDepth = 32;
constexpr uint16_t kChain = 3;
constexpr uint32_t kSize = sizeof(BlkRequest::data);

constinit Queue queue{};
constinit Blk blk{.queue = queue};
BlkRequest requests[kMaxDepth];

// Each request has its three descriptors for good: only its sector changes.
void make_chains(uint64_t depth, BlkType type) {
  for (uint16_t slot = 0; slot < depth; ++slot) {
    BlkRequest& request = requests[slot];
    request.header = {static_cast<uint32_t>(type), 0, 0};
    const auto first = static_cast<uint16_t>(slot * kChain);
    const auto second = static_cast<uint16_t>(first + 1), third = static_cast<uint16_t>(first + 2);
    const auto data_flags = static_cast<uint16_t>(type == BlkType::kIn ? kWrite | kNext : kNext);
    queue.descriptors[first] = {address_of(&request.header), sizeof(BlkHeader), kNext, second};
    queue.descriptors[second] = {address_of(request.data), kSize, data_flags, third};
    queue.descriptors[third] = {address_of(&request.status), 1, kWrite, 0};
  }
}

void start(uint16_t slot, uint64_t sector) {
  requests[slot].header.sector = sector;
  requests[slot].status = kBlkNoStatus;
  queue.publish(static_cast<uint16_t>(slot * kChain));
}

}  // namespace

void test_blk_load() {
  blk.start(128, kEventIdxFeature);
  const uint64_t count = number_option("count", 10'000);
  const uint64_t depth = number_option("depth", kMaxDepth);
  require(depth >= 1 && depth <= kMaxDepth && depth * kChain <= queue.size(),
          "probe.depth= is out of range");
  require(count >= depth, "probe.count= is below probe.depth=");
  const uint64_t chunks = blk.sectors * kSectorBytes / kSize;
  require(chunks > 0, "the disk is too small");
  make_chains(depth, option_is("write", "1") ? BlkType::kOut : BlkType::kIn);
  Load load;
  uint64_t started = 0, done = 0;
  const auto start_next = [&](uint16_t slot) {
    start(slot, started++ % chunks * (kSize / kSectorBytes));
  };
  for (uint16_t slot = 0; slot < depth; ++slot) start_next(slot);
  while (done < count) {
    load.kick(blk.device, 0, queue);
    UsedElement element;
    if (!queue.take(element)) {
      load.idle();
      continue;
    }
    load.progress(queue);
    do {
      const auto slot = static_cast<uint16_t>(element.id / kChain);
      require(slot < depth, "a chain that was never made available");
      require(*const_cast<volatile uint8_t*>(&requests[slot].status) == kBlkOk, "a request failed");
      ++done;
      if (started < count) start_next(slot);
    } while (queue.take(element));
  }
  load.report(done, done * kSize);
}

}  // namespace probe
