// SPDX-License-Identifier: Apache-2.0
//
// The optional part `working_set`: which pages a guest touched after a restore, in that order, and
// which of them it wrote. Whoever restores the snapshot again brings them in first.
//
// Pure; any thread.
#pragma once

#include "base/error.h"
#include "snapshot/sealed.h"

#include <cstdint>
#include <span>
#include <vector>

namespace mayfly::snapshot {

inline constexpr size_t kMaxTouchedRuns = 1 << 20;
inline constexpr uint64_t kMaxWorkingSetBytes = uint64_t{32} << 20;

struct TouchedRun {
  uint32_t first_page = 0;
  uint32_t pages = 0;
  bool dirtied = false;

  friend bool operator==(const TouchedRun&, const TouchedRun&) = default;
};

struct WorkingSet {
  uint64_t memory_bytes = 0;
  /// In the order of first touch.
  std::vector<TouchedRun> runs;

  friend bool operator==(const WorkingSet&, const WorkingSet&) = default;
};

Sealed encode_working_set(const WorkingSet& set);

/// Hostile bytes: the whole part. Every run has a page, lies inside `memory_bytes` and shares no
/// page with another.
Result<WorkingSet> decode_working_set(std::span<const std::byte> file, uint64_t memory_bytes);

}  // namespace mayfly::snapshot
