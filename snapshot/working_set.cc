// SPDX-License-Identifier: Apache-2.0
#include "snapshot/working_set.h"

#include "base/wire_table.h"
#include "snapshot/memory_index.h"

#include <algorithm>

namespace mayfly {

template <>
struct WireTable<snapshot::TouchedRun> {
  static void fields(auto& wire, auto& run) {
    wire.number(1, "first_page", run.first_page);
    wire.number(2, "pages", run.pages);
    wire.number(3, "dirtied", run.dirtied);
  }
};

template <>
struct WireTable<snapshot::WorkingSet> {
  static void fields(auto& wire, auto& set) {
    wire.number(1, "memory_bytes", set.memory_bytes);
    wire.list(2, "runs", set.runs, snapshot::kMaxTouchedRuns);
  }
};

}  // namespace mayfly

namespace mayfly::snapshot {

Sealed encode_working_set(const WorkingSet& set) {
  return seal(PartKind::kWorkingSet, encode(set).bytes());
}

Result<WorkingSet> decode_working_set(std::span<const std::byte> file, uint64_t memory_bytes) {
  const Unsealed unsealed = TRY(unseal(PartKind::kWorkingSet, file));
  WorkingSet set;
  if (Result<> decoded = decode(unsealed.payload, set); !decoded) return damaged(decoded.error());
  if (set.memory_bytes != memory_bytes) {
    return fail({Code::kDataLoss, "PART_DAMAGED"}, "memory_bytes: %llu, the machine has %llu",
                static_cast<unsigned long long>(set.memory_bytes),
                static_cast<unsigned long long>(memory_bytes));
  }
  const uint64_t pages = memory_bytes / kPageBytes;
  for (const TouchedRun& run : set.runs) {
    if (run.pages == 0 || run.pages > pages || run.first_page > pages - run.pages) {
      return fail({Code::kDataLoss, "PART_DAMAGED"}, "runs: %u pages at %u, of %llu in all",
                  run.pages, run.first_page, static_cast<unsigned long long>(pages));
    }
  }
  std::vector<TouchedRun> sorted = set.runs;
  std::ranges::sort(sorted, {}, &TouchedRun::first_page);
  for (size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i].first_page - sorted[i - 1].first_page < sorted[i - 1].pages) {
      return fail({Code::kDataLoss, "PART_DAMAGED"}, "runs: page %u is there twice",
                  sorted[i].first_page);
    }
  }
  return set;
}

}  // namespace mayfly::snapshot
