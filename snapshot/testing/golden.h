// SPDX-License-Identifier: Apache-2.0
//
// The golden snapshots of format version 1, as testdata/v1 keeps them: `base`, a FULL with a
// working set, and `diff` over it. Git knows no holes, so the stored pages of `memory` lie there
// one after the other as `pages`.
//
// testdata/v1 is never written again: a reader that cannot read it is broken.
#pragma once

#include "snapshot/testing/sample.h"

#include <cstdint>
#include <string>
#include <vector>

namespace mayfly::snapshot::testing {

struct Golden {
  const char* name;
  std::vector<uint64_t> stored_pages;
};
std::vector<Golden> golden_snapshots();

/// Writes both, as they were written.
Result<> write_golden(FdRef store);
/// The RAM of `base`, and of `diff`.
Fd golden_base_ram();
Fd golden_diff_ram();

}  // namespace mayfly::snapshot::testing
