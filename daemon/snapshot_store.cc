// SPDX-License-Identifier: Apache-2.0
#include "daemon/snapshot_store.h"

#include "base/log.h"
#include "daemon/spec.h"
#include "daemon/text.h"
#include "daemon/vm_manager.h"
#include "snapshot/add_working_set.h"
#include "snapshot/files.h"
#include "snapshot/reader.h"
#include "snapshot/writer.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

constexpr size_t kMaxNames = 1 << 20;
constexpr uint64_t kStatBlockBytes = 512;

std::unexpected<Error> not_found(const std::string& id) {
  return fail({Code::kNotFound, "SNAPSHOT_NOT_FOUND"}, "snapshot_id: there is no snapshot \"%s\"",
              printable(id, kMaxIdBytes).c_str());
}

uint64_t stored_bytes(FdRef directory) {
  uint64_t bytes = 0;
  const auto names = snapshot::list_names(directory, snapshot::kMaxParts + 1);
  if (!names) return 0;
  for (const std::string& name : *names) {
    struct stat status;
    if (::fstatat(directory.number(), name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0)
      bytes += static_cast<uint64_t>(status.st_blocks) * kStatBlockBytes;
  }
  return bytes;
}

Result<SnapshotView> view_of(FdRef store, const std::string& id) {
  const auto directory = snapshot::open_directory_at(store, id.c_str());
  if (!directory && directory.error().code() == Code::kNotFound) return not_found(id);
  if (!directory) return std::unexpected(Error(directory.error()).with_context(id));
  SnapshotView view{.id = id,
                    .manifest = std::nullopt,
                    .damage = {},
                    .stored_bytes = stored_bytes(directory->ref())};
  auto manifest = snapshot::read_manifest(directory->ref());
  if (manifest) {
    view.manifest = *std::move(manifest);
  } else {
    view.damage = printable(manifest.error().message(), 512);
  }
  return view;
}

}  // namespace

Result<> validate_snapshot_id(const std::string& id) {
  TRY(validate_id("snapshot_id", id));
  if (id.find(snapshot::kTemporaryMark) == std::string::npos) return {};
  return fail({Code::kInvalidArgument, "ID_BAD"},
              "snapshot_id: \"%s\" has \"%s\" in it, which marks what is being written", id.c_str(),
              snapshot::kTemporaryMark);
}

SnapshotHold::~SnapshotHold() {
  if (store_ == nullptr) return;
  std::lock_guard lock(store_->mutex_);
  const auto found = store_->held_.find(id_);
  if (--found->second == 0) store_->held_.erase(found);
}

Result<std::unique_ptr<SnapshotStore>> SnapshotStore::open(std::string path) {
  if (path.empty() || path[0] != '/') {
    return fail({Code::kInvalidArgument, "SNAPSHOT_DIR"},
                "--snapshot-dir: \"%s\" is not an absolute path", path.c_str());
  }
  std::unique_ptr<SnapshotStore> store(new SnapshotStore(std::move(path)));
  if (!TRY(store->open_directory())) return store;
  if (const size_t swept = TRY(snapshot::sweep(store->directory_.ref())); swept > 0) {
    log(LogLevel::kInfo, "%s: removed %zu snapshots that were never whole", store->path_.c_str(),
        swept);
  }
  return store;
}

Result<bool> SnapshotStore::open_directory() {
  if (directory_.valid()) return true;
  Fd directory(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid() && errno == ENOENT) return false;
  struct stat status;
  if (!directory.valid() || ::fstat(directory.number(), &status) != 0) {
    return fail_errno({Code::kFailedPrecondition, "SNAPSHOT_DIR"}, errno, "--snapshot-dir: open %s",
                      path_.c_str());
  }
  if (status.st_uid != ::geteuid()) {
    return fail({Code::kPermissionDenied, "SNAPSHOT_DIR"},
                "--snapshot-dir: %s belongs to user %u, not to us (%u)", path_.c_str(),
                status.st_uid, ::geteuid());
  }
  directory_ = std::move(directory);
  return true;
}

Result<FdRef> SnapshotStore::directory() {
  std::lock_guard lock(mutex_);
  if (TRY(open_directory())) return directory_.ref();
  if (::mkdir(path_.c_str(), 0700) != 0) {
    return fail_errno({Code::kFailedPrecondition, "SNAPSHOT_DIR"}, errno, "--snapshot-dir: make %s",
                      path_.c_str());
  }
  TRY(open_directory());
  return directory_.ref();
}

SnapshotHold SnapshotStore::hold(const std::string& id) {
  std::lock_guard lock(mutex_);
  ++held_[id];
  return {this, id};
}

Result<std::vector<std::string>> SnapshotStore::names() {
  if (!TRY(open_directory())) return std::vector<std::string>();
  std::vector<std::string> names = TRY(snapshot::list_names(directory_.ref(), kMaxNames));
  std::erase_if(names, [](const std::string& name) { return !validate_snapshot_id(name); });
  std::ranges::sort(names);
  return names;
}

Result<SnapshotView> SnapshotStore::get(const std::string& id) {
  TRY(validate_snapshot_id(id));
  std::lock_guard lock(mutex_);
  if (!TRY(open_directory())) return not_found(id);
  return view_of(directory_.ref(), id);
}

Result<SnapshotPage> SnapshotStore::list(size_t page_size, const std::string& page_token) {
  page_size = TRY(checked_page(page_size, page_token));
  std::lock_guard lock(mutex_);
  SnapshotPage page;
  for (const std::string& name : TRY(names())) {
    if (name <= page_token) continue;
    if (page.snapshots.size() == page_size) {
      page.next_page_token = page.snapshots.back().id;
      break;
    }
    // One that goes meanwhile, by another's hand, or that is no directory, is not listed.
    if (auto view = view_of(directory_.ref(), name)) page.snapshots.push_back(*std::move(view));
  }
  return page;
}

Result<> SnapshotStore::check_no_diffs(const char* what, const std::string& id) {
  for (const std::string& name : TRY(names())) {
    const auto view = view_of(directory_.ref(), name);
    if (!view || !view->manifest || !view->manifest->parent) continue;
    if (view->manifest->parent->id != id) continue;
    return fail({Code::kFailedPrecondition, "HAS_DIFFS"},
                "%s %s: the snapshot %s stands on it; delete that one first", what, id.c_str(),
                name.c_str());
  }
  return {};
}

Result<std::unique_lock<std::mutex>> SnapshotStore::lock_to_replace(const std::string& id) {
  std::unique_lock lock(mutex_);
  if (held_[id] > 1) {
    return fail({Code::kFailedPrecondition, "SNAPSHOT_IN_USE"},
                "replace %s: another call works with it at this moment", id.c_str());
  }
  TRY(check_no_diffs("replace", id));
  return lock;
}

Result<> SnapshotStore::add_working_set(const std::string& id, const snapshot::Digest& memory,
                                        const snapshot::WorkingSet& set) {
  TRY(validate_snapshot_id(id));
  std::lock_guard lock(mutex_);
  if (!TRY(open_directory())) return not_found(id);
  if (held_.contains(id)) {
    return fail({Code::kFailedPrecondition, "SNAPSHOT_IN_USE"},
                "record %s: a call works with it at this moment", id.c_str());
  }
  const auto snapshot = snapshot::Snapshot::open(directory_.ref(), id);
  if (!snapshot && snapshot.error().code() == Code::kNotFound) return not_found(id);
  if (!snapshot) return std::unexpected(Error(snapshot.error()).with_context(id));
  if (!snapshot->index() || snapshot->index()->digest != memory) {
    return fail({Code::kFailedPrecondition, "BASE_GONE"},
                "the snapshot %s is another than the one that the VM goes on from", id.c_str());
  }
  return snapshot::add_working_set(directory_.ref(), id, set);
}

Result<> SnapshotStore::remove(const std::string& id) {
  TRY(validate_snapshot_id(id));
  std::lock_guard lock(mutex_);
  if (!TRY(open_directory())) return not_found(id);
  if (held_.contains(id)) {
    return fail({Code::kFailedPrecondition, "SNAPSHOT_IN_USE"},
                "delete %s: a call works with it at this moment", id.c_str());
  }
  TRY(check_no_diffs("delete", id));
  auto removed = snapshot::remove_snapshot(directory_.ref(), id);
  if (!removed && removed.error().code() == Code::kNotFound) return not_found(id);
  return removed;
}

}  // namespace mayfly::daemon
