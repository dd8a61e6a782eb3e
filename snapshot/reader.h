// SPDX-License-Identifier: Apache-2.0
//
// Opening a snapshot's directory, which is not trusted: every bit of it may be wrong, and what is
// wrong is an error before anything starts. kDataLoss is damage; kFailedPrecondition is a snapshot
// that is whole but not for this program or this host (FORMAT_VERSION, CPU_VENDOR, CPU_FEATURE,
// ...); kNotFound is none. docs/snapshots.md has the format.
//
// open() is the fast check: the list of files, their kinds and sizes, and every part but the memory
// itself and what was on disks, whole. verify_memory() and verify_disks() read those too;
// LayeredMemory checks what it hands out.
//
// The files must not be written while a Snapshot is open. What was read is a copy; a memory file
// that changes is found out where it is read through LayeredMemory, and not where it is mapped.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "snapshot/disk_file_sys.h"
#include "snapshot/manifest.h"
#include "snapshot/memory_file.h"
#include "snapshot/memory_index.h"
#include "snapshot/state.h"
#include "snapshot/working_set.h"

#include <optional>
#include <string>
#include <vector>

namespace mayfly::snapshot {

/// A manifest alone: what `inspect` shows of a snapshot whose other parts may be broken.
Result<Manifest> read_manifest(FdRef directory);

class Snapshot {
 public:
  /// The directory `name` in `store`; a link is not followed.
  static Result<Snapshot> open(FdRef store, const std::string& name);
  /// The directory itself, borrowed.
  static Result<Snapshot> open(FdRef directory);

  const Manifest& manifest() const { return manifest_; }
  const MachineState& state() const { return state_; }
  /// Absent in a STATE_ONLY.
  const std::optional<ReadIndex>& index() const { return index_; }
  const std::optional<WorkingSet>& working_set() const { return working_set_; }
  /// The memory file, read-only; invalid in a STATE_ONLY.
  FdRef memory() const { return memory_.ref(); }
  /// The memory file is no image of RAM that could be mapped.
  bool is_compressed() const;
  /// The memory as a layer; not of a STATE_ONLY. The snapshot outlives it and does not move.
  MemoryLayer layer() const;

  /// What was on the disk at this place of the machine, read-only; invalid where that was not
  /// captured.
  FdRef disk(size_t place) const { return disks_[place].ref(); }

  /// Every byte of the memory file. A STATE_ONLY has none.
  Result<> verify_memory() const;
  /// Every byte of the captured disks: kDataLoss DISK_DAMAGED.
  Result<> verify_disks(const GoOn& go_on = nullptr) const;

 private:
  Snapshot() = default;
  Result<> read_parts(FdRef directory);
  Result<> read_memory_parts(FdRef directory);
  Result<> check_agreement() const;

  Manifest manifest_;
  MachineState state_;
  std::optional<ReadIndex> index_;
  std::optional<WorkingSet> working_set_;
  Fd memory_;
  // One for each of the machine's.
  std::vector<Fd> disks_;
};

}  // namespace mayfly::snapshot
