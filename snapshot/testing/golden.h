// SPDX-License-Identifier: Apache-2.0
//
// The golden snapshots of each format version. testdata/v1 keeps `base`, a FULL with a working set,
// and `diff` over it; testdata/v2 `disks`, a FULL with a captured disk. Git knows no holes, so the
// stored pages of `memory` lie there one after the other as `pages`; the disk is small and whole.
//
// They are never written again: a reader that cannot read them is broken.
#pragma once

#include "snapshot/testing/sample.h"

#include <cstdint>
#include <string>
#include <vector>

namespace mayfly::snapshot::testing {

struct Golden {
  const char* name;
  std::vector<uint64_t> stored_pages;
  int version = 1;
};
std::vector<Golden> golden_snapshots();

/// Writes all, as they were written.
Result<> write_golden(FdRef store);
/// The RAM of `base`, and of `diff`.
Fd golden_base_ram();
Fd golden_diff_ram();

}  // namespace mayfly::snapshot::testing
