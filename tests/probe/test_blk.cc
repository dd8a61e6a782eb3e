// SPDX-License-Identifier: Apache-2.0
#include "tests/probe/blk.h"
#include "tests/probe/cpu_sys.h"
#include "tests/probe/probe.h"

namespace probe {
namespace {

constinit Queue queue{};
constinit Blk blk{.queue = queue};
constinit BlkRequest request{};

constexpr uint32_t kChunk = sizeof(request.data);
constexpr uint64_t kChunkSectors = kChunk / kSectorBytes;
constexpr uint16_t kMaxDepth = 32;
BlkRequest requests[kMaxDepth];

void expect(uint8_t status, uint8_t wanted, const char* why) {
  if (status != wanted) Line() << "status " << status << " instead of " << wanted;
  require(status == wanted, why);
}

}  // namespace

Blk& the_blk() { return blk; }

void Blk::start(uint16_t queue_size, uint64_t features) {
  if (!device.exists())
    device = Device::find(DeviceId::kBlk, static_cast<unsigned>(number_option("disk", 0)));
  require(device.exists(), "no block device");
  device.negotiate(kBlkReadOnly | kBlkFlush | kIndirectFeature | features);
  device.set_up(0, queue, queue_size);
  device.go();
  sectors = device.config64(0);
}

void Blk::add(BlkRequest& to, BlkType type, uint64_t sector, uint32_t size) {
  to.header = {static_cast<uint32_t>(type), 0, sector};
  to.status = kBlkNoStatus;
  const bool device_writes = type == BlkType::kIn || type == BlkType::kGetId;
  if (size == 0) {
    queue.add({{&to.header, sizeof(to.header), false}, {&to.status, 1, true}});
  } else {
    queue.add({{&to.header, sizeof(to.header), false},
               {to.data, size, device_writes},
               {&to.status, 1, true}});
  }
}

uint8_t Blk::run(BlkRequest& to, BlkType type, uint64_t sector, uint32_t size) {
  add(to, type, sector, size);
  device.kick(0);
  UsedElement element;
  const Outcome outcome = wait(device, queue, element, kPatience);
  if (outcome != Outcome::kUsed) return kBlkNoStatus;
  return *const_cast<volatile uint8_t*>(&to.status);
}

// Writes the first and the last chunk and some between, flushes, and reads them back.
void test_blk() {
  blk.start();
  const uint64_t count = number_option("count", 16);
  const uint64_t step = (blk.sectors - kChunkSectors) / (count > 1 ? count - 1 : 1);
  require(blk.sectors >= kChunkSectors * count, "the disk is too small");
  for (uint64_t i = 0; i < count; ++i) {
    fill_pattern(request.data, kChunk, i + 1);
    expect(blk.run(request, BlkType::kOut, i * step, kChunk), kBlkOk, "write");
  }
  expect(blk.run(request, BlkType::kFlush, 0, 0), kBlkOk, "flush");
  for (uint64_t i = 0; i < count; ++i) {
    fill_pattern(request.data, kChunk, 999);
    expect(blk.run(request, BlkType::kIn, i * step, kChunk), kBlkOk, "read");
    require(has_pattern(request.data, kChunk, i + 1), "read back something else than was written");
  }
  expect(blk.run(request, BlkType::kGetId, 0, 20), kBlkOk, "get the serial number");
  request.data[20] = 0;
  Line() << "serial '" << text_of(request.data) << "', " << blk.sectors << " sectors";
}

void test_blk_read_only() {
  blk.start();
  require((blk.device.features() & kBlkReadOnly) != 0, "the disk is writable");
  expect(blk.run(request, BlkType::kIn, 0, kChunk), kBlkOk, "read");
  expect(blk.run(request, BlkType::kOut, 0, kChunk), kBlkIoError, "write to a read-only disk");
  expect(blk.run(request, BlkType::kIn, 0, kChunk), kBlkOk, "read after the refused write");
}

// N reads of 4 KiB, `depth` at a time with one kick for all of them.
void test_bench() {
  blk.start();
  const uint64_t count = number_option("count", 1000);
  const uint64_t depth = number_option("depth", 1);
  require(depth >= 1 && depth <= kMaxDepth && depth * 3 <= queue.size(),
          "probe.depth= is out of range");
  const uint64_t chunks = blk.sectors / kChunkSectors;
  require(chunks > 0, "the disk is too small");
  uint64_t done = 0;
  uint64_t kicks = 0;
  const uint64_t begin = cycles();
  while (done < count) {
    const uint64_t batch = count - done < depth ? count - done : depth;
    for (uint64_t i = 0; i < batch; ++i) {
      blk.add(requests[i], BlkType::kIn, (done + i) % chunks * kChunkSectors, kChunk);
    }
    blk.device.kick(0);
    ++kicks;
    for (uint64_t i = 0; i < batch; ++i) {
      UsedElement element;
      require(wait(blk.device, queue, element, kPatience) == Outcome::kUsed, "a request got lost");
    }
    for (uint64_t i = 0; i < batch; ++i) expect(requests[i].status, kBlkOk, "read");
    done += batch;
  }
  const uint64_t took = cycles() - begin;
  Line() << "bench requests=" << count << " depth=" << depth << " kicks=" << kicks
         << " cycles=" << took << " cycles_per_request=" << took / count;
}

}  // namespace probe
