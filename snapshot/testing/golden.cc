// SPDX-License-Identifier: Apache-2.0
#include "snapshot/testing/golden.h"

namespace mayfly::snapshot::testing {

std::vector<Golden> golden_snapshots() {
  const std::vector<uint64_t> pages = {0, 511, 512, kSamplePages - 1};
  return {{"base", pages}, {"diff", {0, 600}}, {"disks", pages, 2}};
}

Fd golden_base_ram() {
  Fd ram = MUST(Fd::memfd("golden", kSampleBytes));  // small
  const Golden base = golden_snapshots()[0];
  uint8_t seed = 1;
  for (const uint64_t page : base.stored_pages) fill_page(ram.ref(), page, seed++);
  return ram;
}

Fd golden_diff_ram() {
  Fd ram = golden_base_ram();
  fill_page(ram.ref(), 0, 9);
  fill_page(ram.ref(), 511, 0);
  fill_page(ram.ref(), 600, 10);
  return ram;
}

Result<> write_golden(FdRef store) {
  TRY(write_sample(store,
                   {.id = "base", .ram = golden_base_ram().ref(), .with_working_set = true}));
  TRY(write_sample(store, {.id = "diff",
                           .ram = golden_diff_ram().ref(),
                           .parent = parent_of(store, "base"),
                           .dirty = {0, 511, 600}}));
  return write_sample(store,
                      {.id = "disks", .ram = golden_base_ram().ref(), .disk = sample_disk().ref()});
}

}  // namespace mayfly::snapshot::testing
