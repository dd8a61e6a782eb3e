// SPDX-License-Identifier: Apache-2.0
//
// How a VM that goes on from a snapshot has its memory, decided from what a run before it touched:
// for each 2 MiB either the template's pages, or a copy of its own made before it runs. A copy
// costs as much as some faults do, and memory. Pure; any thread.
#pragma once

#include "daemon/control_codec.h"
#include "snapshot/working_set.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace mayfly::daemon {

/// The numbers are mayfly.v1.MemoryPolicy's.
enum class MemoryPolicy : uint8_t {
  /// Refused.
  kUnknown = 0,
  /// Nothing is copied.
  kLazy = 1,
  /// What is written anyway is copied where that is quicker than its faults.
  kBalanced = 2,
  /// What is touched is copied where that is quicker than its faults.
  kLatency = 3,
};

/// What a host's pages cost, as PageCosts says, and what kind the template has.
struct PlanCosts {
  /// So many faults take as long as a copy of 2 MiB; at least 1.
  uint32_t faults_of_copy = 1;
  /// Of its chunks: whether each is one huge page. Chunks beyond its end are not.
  std::vector<bool> huge_chunks = {};
};

/// Sorted and apart, as Restore.copied_chunks wants them, at most kMaxCopiedRuns: of more, those
/// with the most to gain.
std::vector<ChunkRun> plan_copies(const snapshot::WorkingSet& touched, MemoryPolicy policy,
                                  const PlanCosts& costs);

/// The plans of one memory.
class MemoryPlans {
 public:
  /// Nothing is known of what will be touched: nothing is copied.
  MemoryPlans() = default;
  MemoryPlans(const snapshot::WorkingSet& touched, const PlanCosts& costs);

  /// Whether anything is known of what will be touched.
  bool is_informed() const { return is_informed_; }
  const std::vector<ChunkRun>& of(MemoryPolicy policy) const {
    return plans_[static_cast<size_t>(policy)];
  }

 private:
  bool is_informed_ = false;
  std::array<std::vector<ChunkRun>, 4> plans_;
};

uint64_t bytes_of(std::span<const ChunkRun> runs);

}  // namespace mayfly::daemon
