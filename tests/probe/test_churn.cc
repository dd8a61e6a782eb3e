// SPDX-License-Identifier: Apache-2.0
//
// A guest that is worth saving at any moment: a sequence of numbers that goes on in a register,
// memory that is written and found again, disk requests in flight, lines on the console. What is
// lost, repeated or changed anywhere fails the test here, or shows in the lines.
#include "tests/probe/blk.h"
#include "tests/probe/cpu_sys.h"
#include "tests/probe/probe.h"

namespace probe {
namespace {

constexpr uint64_t kPages = 256;
constexpr uint64_t kRoundsPerDiskRound = 16;
constexpr uint64_t kRoundsPerLine = 64;
constexpr uint16_t kDepth = 8;

struct Page {
  uint64_t round;
  uint64_t value;
  uint64_t rest[509];
  uint64_t check;
};
static_assert(sizeof(Page) == 4096);

alignas(4096) constinit Page pages[kPages] = {};
BlkRequest requests[kDepth];
constexpr uint64_t kChunkSectors = sizeof(BlkRequest::data) / kSectorBytes;

// What it held since it was last its turn must be there; then it is this round's.
void visit(uint64_t round, uint64_t value) {
  Page& page = pages[round % kPages];
  if (round >= kPages) {
    require(page.round == round - kPages, "a page of another round");
    require(page.check == (page.round ^ page.value), "a page changed");
  }
  page.round = round;
  page.value = value;
  page.check = round ^ value;
}

void run_all(Blk& blk, BlkType type, uint64_t first) {
  for (uint16_t i = 0; i < kDepth; ++i) {
    blk.add(requests[i], type, first + i * kChunkSectors, sizeof(requests[i].data));
  }
  blk.device.kick(0);
  for (uint16_t i = 0; i < kDepth; ++i) {
    UsedElement element;
    require(wait(blk.device, blk.queue, element, UINT64_MAX) == Outcome::kUsed, "the disk broke");
  }
  for (const BlkRequest& request : requests) {
    require(*const_cast<const volatile uint8_t*>(&request.status) == kBlkOk, "a request failed");
  }
}

void visit_disk(Blk& blk, uint64_t round) {
  const uint64_t first = round % 32 * kDepth * kChunkSectors;
  for (uint16_t i = 0; i < kDepth; ++i) {
    fill_pattern(requests[i].data, sizeof(requests[i].data), round + i);
  }
  run_all(blk, BlkType::kOut, first);
  for (BlkRequest& request : requests) fill_pattern(request.data, sizeof(request.data), ~round);
  run_all(blk, BlkType::kIn, first);
  for (uint16_t i = 0; i < kDepth; ++i) {
    require(has_pattern(requests[i].data, sizeof(requests[i].data), round + i),
            "the disk lost something");
  }
}

}  // namespace

void test_churn() {
  Blk& blk = the_blk();
  blk.start();
  start_report();
  const uint64_t count = number_option("count", 1000);
  uint64_t value = 1;
  for (uint64_t round = 0; round < count; ++round) {
    value = value * 6364136223846793005 + 1442695040888963407;
    visit(round, value);
    if (round % kRoundsPerDiskRound == 0) visit_disk(blk, round / kRoundsPerDiskRound);
    if (round % kRoundsPerLine == 0) Line() << "round " << round << " " << value;
  }
}

}  // namespace probe
