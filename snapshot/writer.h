// SPDX-License-Identifier: Apache-2.0
//
// Making a snapshot's directory so that it is there whole or not at all, whatever happens when: the
// parts are written into NAME.tmp-XXXX beside it, synced, read back by the reader, and renamed into
// place as the last step. A disk that is full leaves what was there before. A process or a machine
// that dies leaves that, or the new snapshot, and perhaps a temporary directory for sweep().
//
// Used by the daemon, which may give a part's file to the monitor to write: nothing that a monitor
// writes is committed unless the reader takes it. One that goes on writing after that makes a
// snapshot that does not open, by its digests. Blocks on the disk; one thread at a time.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "snapshot/disk_file_sys.h"
#include "snapshot/manifest.h"
#include "snapshot/sealed.h"

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace mayfly::snapshot {

enum class IfExists : uint8_t {
  kRefuse,   ///< kAlreadyExists SNAPSHOT_EXISTS
  kReplace,  ///< exchanged in one step, then removed; only what looks like a snapshot
};

class SnapshotWriter {
 public:
  struct Target {
    /// Where snapshots are; outlives the writer.
    FdRef store;
    std::string name;
    IfExists if_exists = IfExists::kRefuse;
    /// Called before each step that changes the disk, with its name: for tests.
    void (*before_step)(const char* step) = nullptr;
  };

  static Result<SnapshotWriter> create(Target target);
  /// Removes what was not committed.
  ~SnapshotWriter();
  SnapshotWriter(SnapshotWriter&& other) noexcept;
  SnapshotWriter(const SnapshotWriter&) = delete;
  SnapshotWriter& operator=(const SnapshotWriter&) = delete;

  /// Creates the file of a part (k...Name), empty. The writer keeps it open until it is committed.
  Result<FdRef> create_part(const char* name);
  /// The same, and writes it.
  Result<> write_part(const char* name, const Sealed& part);

  /// Creates the file for what was on the disk at `place` of the machine: copy_disk() fills it.
  Result<FdRef> create_disk(size_t place);
  /// When all of them are filled: reads them, for their digests, and gives zeroes back.
  Result<> settle_disks(const GoOn& go_on);
  /// Of a settled one.
  Digest disk_digest(size_t place) const { return disk_digests_.at(disk_name(place)); }
  /// Takes a part over as it is, from another snapshot: the one file for both, or a copy.
  Result<> link_part(FdRef directory, const Part& part);

  /// Puts the snapshot in place. `manifest.parts` is filled in here, from the files. After an error
  /// nothing has changed, but for one of the last sync (SNAPSHOT_IO), after which the snapshot is
  /// in place and may be gone again if the machine loses power.
  /// `last_word` is asked right before that, when all is written and synced; its error ends it.
  Result<> commit(Manifest manifest, const std::function<Result<>()>& last_word = nullptr);

 private:
  explicit SnapshotWriter(Target target) : target_(std::move(target)) {}
  void step(const char* name) const;
  Result<std::vector<Part>> describe_parts() const;
  Result<> sync_parts();
  Result<> move_into_place();

  Target target_;
  std::string temporary_;  // empty: there is nothing to remove
  Fd directory_;
  std::vector<std::pair<std::string, Fd>> files_;
  std::map<std::string, Digest> disk_digests_;
  // What another snapshot's manifest says of them.
  std::map<std::string, Part> linked_;
};

/// Removes a snapshot in one step: after a crash it is there whole or not at all. kNotFound where
/// there is none, kFailedPrecondition NOT_A_SNAPSHOT where the directory is something else.
Result<> remove_snapshot(FdRef store, const std::string& name);

/// Removes the temporary directories that no living writer holds, and files that never became a
/// disk; how many. For a daemon's start.
Result<size_t> sweep(FdRef store);

}  // namespace mayfly::snapshot
