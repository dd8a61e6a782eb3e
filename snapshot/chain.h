// SPDX-License-Identifier: Apache-2.0
//
// A diff and all it stands on, down to a full snapshot. Parents are looked for in the same store,
// in directories named by their id.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "snapshot/memory_file.h"
#include "snapshot/reader.h"
#include "snapshot/writer.h"

#include <cstdint>
#include <string>
#include <vector>

namespace mayfly::snapshot {

inline constexpr size_t kMaxChainLength = 64;

class Chain {
 public:
  /// Opens `name` and its parents, each by Snapshot::open(). kNotFound PARENT_NOT_FOUND; kDataLoss
  /// PARENT_MISMATCH where a parent is not the one that the diff was made over, or is no memory at
  /// all; kFailedPrecondition CHAIN_LENGTH.
  static Result<Chain> open(FdRef store, const std::string& name);

  /// Newest first; the last is a FULL, or the only one a STATE_ONLY.
  const std::vector<Snapshot>& snapshots() const { return snapshots_; }
  const Snapshot& newest() const { return snapshots_.front(); }

  /// Of all memories, lowest first; not of a STATE_ONLY. The chain outlives them, and may move.
  std::vector<MemoryLayer> layers() const;
  /// The newest `count` memories as one; not of a STATE_ONLY. The chain outlives it.
  LayeredMemory memory(size_t count) const;
  LayeredMemory memory() const { return memory(snapshots_.size()); }

  /// Every byte of every memory file.
  Result<> verify_memory() const;
  /// Every byte of every captured disk.
  Result<> verify_disks(const GoOn& go_on = nullptr) const;

 private:
  std::vector<Snapshot> snapshots_;
};

struct Merge {
  const Chain& chain;
  /// How many of the newest become one: 2 or more merges a diff into its parents, all of them makes
  /// a FULL.
  size_t count = 0;
  /// The new snapshot's.
  std::string id;
  uint64_t created_ns = 0;
  /// Asked at each 2 MiB of memory and 8 MiB of disks; its error ends it.
  GoOn go_on = nullptr;
  /// SnapshotWriter::commit()'s.
  GoOn last_word = nullptr;
};

/// Writes the newest snapshot anew, over fewer parents or none, into `writer`, and commits it. The
/// machine is the same to the bit. Diffs over the old one are not over the new one.
Result<> merge(const Merge& what, SnapshotWriter& writer);

}  // namespace mayfly::snapshot
