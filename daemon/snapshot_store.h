// SPDX-License-Identifier: Apache-2.0
//
// The directory that holds this daemon's snapshots, which outlive it: snapshot/ reads and writes
// one of them, this knows about all. A snapshot's id is the name of its directory. Any thread;
// blocks on the disk.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "snapshot/manifest.h"
#include "snapshot/working_set.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace mayfly::daemon {

struct SnapshotView {
  std::string id;
  // Absent: the manifest cannot be read, for the reason in `damage`.
  std::optional<snapshot::Manifest> manifest;
  std::string damage;
  uint64_t stored_bytes = 0;
};

struct SnapshotPage {
  std::vector<SnapshotView> snapshots;
  std::string next_page_token;
};

class SnapshotStore;

/// Keeps a snapshot from being removed.
class SnapshotHold {
 public:
  SnapshotHold(SnapshotStore* store, std::string id) : store_(store), id_(std::move(id)) {}
  ~SnapshotHold();
  SnapshotHold(SnapshotHold&& other) noexcept
      : store_(std::exchange(other.store_, nullptr)), id_(std::move(other.id_)) {}
  SnapshotHold(const SnapshotHold&) = delete;
  SnapshotHold& operator=(const SnapshotHold&) = delete;

 private:
  SnapshotStore* store_;
  std::string id_;
};

class SnapshotStore {
 public:
  /// Sweeps up what a killed daemon was writing. The directory is made, mode 0700, with the first
  /// snapshot; one that is there must be this user's.
  static Result<std::unique_ptr<SnapshotStore>> open(std::string path);

  const std::string& path() const { return path_; }
  /// To write to; made if it is not there.
  Result<FdRef> directory();

  SnapshotHold hold(const std::string& id);

  Result<SnapshotView> get(const std::string& id);
  /// Gives a snapshot its working set. FAILED_PRECONDITION SNAPSHOT_IN_USE while it is held,
  /// BASE_GONE where its memory is another than this.
  Result<> add_working_set(const std::string& id, const snapshot::Digest& memory,
                           const snapshot::WorkingSet& set);
  /// In order of ids, damaged ones too.
  Result<SnapshotPage> list(size_t page_size, const std::string& page_token);
  /// For who holds a snapshot and is about to put another in its place: while the lock is held
  /// nobody begins to work with any. FAILED_PRECONDITION SNAPSHOT_IN_USE while another call holds
  /// it, HAS_DIFFS where another snapshot stands on it.
  Result<std::unique_lock<std::mutex>> lock_to_replace(const std::string& id);
  /// FAILED_PRECONDITION SNAPSHOT_IN_USE while it is held, HAS_DIFFS where another stands on it.
  Result<> remove(const std::string& id);

 private:
  friend class SnapshotHold;
  explicit SnapshotStore(std::string path) : path_(std::move(path)) {}
  Result<bool> open_directory();
  Result<std::vector<std::string>> names();
  Result<> check_no_diffs(const char* what, const std::string& id);

  const std::string path_;
  std::mutex mutex_;
  // Guarded by mutex_; once valid, constant.
  Fd directory_;
  std::map<std::string, size_t> held_;
};

/// [a-z0-9][a-z0-9-_.]{0,62} without ".tmp-", which marks what is being written.
Result<> validate_snapshot_id(const std::string& id);

}  // namespace mayfly::daemon
