// SPDX-License-Identifier: Apache-2.0
#include "snapshot/writer.h"

#include "snapshot/files.h"
#include "snapshot/reader.h"

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <optional>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::snapshot {
namespace {

constexpr size_t kMaxStoreEntries = 1 << 20;

bool is_temporary(const std::string& name) { return name.find(kTemporaryMark) != name.npos; }

Result<> check_name(const std::string& name) {
  if (valid_id(name) && !is_temporary(name)) return {};
  return fail({Code::kInvalidArgument, "SNAPSHOT_NAME"},
              "snapshot name: not 1 to %zu of [A-Za-z0-9_.-], or with %s in it", kMaxIdSize,
              kTemporaryMark);
}

// Good enough to be replaced or removed, damaged or not: a manifest, and no file that is not ours.
Result<> check_is_snapshot(FdRef store, const std::string& name) {
  const Fd directory = TRY(open_directory_at(store, name.c_str()));
  const auto names = list_names(directory.ref(), kMaxParts + 1);
  if (!names || !std::ranges::all_of(*names, is_part_name) ||
      std::ranges::find(*names, kManifestName) == names->end()) {
    return fail({Code::kFailedPrecondition, "NOT_A_SNAPSHOT"},
                "%s: is not a snapshot's directory, and is left alone", name.c_str());
  }
  return {};
}

// Memory and disks are not sealed.
std::optional<PartKind> sealed_kind(const std::string& name) {
  if (name == kStateName) return PartKind::kState;
  if (name == kMemoryIndexName) return PartKind::kMemoryIndex;
  if (name == kWorkingSetName) return PartKind::kWorkingSet;
  return std::nullopt;
}

std::unexpected<Error> move_error(int os_errno, const std::string& name) {
  if (os_errno == EEXIST || os_errno == ENOTEMPTY) {
    return fail({Code::kAlreadyExists, "SNAPSHOT_EXISTS"}, "%s: exists already", name.c_str());
  }
  return fail_errno({Code::kUnavailable, "SNAPSHOT_IO"}, os_errno, "%s: move into place",
                    name.c_str());
}

}  // namespace

Result<SnapshotWriter> SnapshotWriter::create(Target target) {
  TRY(check_name(target.name));
  struct stat info;
  const bool exists =
      ::fstatat(target.store.number(), target.name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0;
  if (exists && target.if_exists == IfExists::kRefuse) return move_error(EEXIST, target.name);
  if (exists) TRY(check_is_snapshot(target.store, target.name));
  SnapshotWriter writer(std::move(target));
  writer.step("mkdir");
  const std::string temporary = TRY(temporary_name(writer.target_.name));
  if (::mkdirat(writer.target_.store.number(), temporary.c_str(), 0700) != 0) {
    return fail_errno({errno == ENOSPC ? Code::kResourceExhausted : Code::kUnavailable,
                       errno == ENOSPC ? "NO_SPACE" : "SNAPSHOT_IO"},
                      errno, "create %s", temporary.c_str());
  }
  writer.temporary_ = temporary;
  writer.directory_ = TRY(open_directory_at(writer.target_.store, temporary.c_str()));
  // Tells sweep() that somebody works here. It goes with the process, however that ends.
  if (::flock(writer.directory_.number(), LOCK_EX | LOCK_NB) != 0) {
    return fail_errno({Code::kUnavailable, "SNAPSHOT_IO"}, errno, "lock %s", temporary.c_str());
  }
  return writer;
}

SnapshotWriter::SnapshotWriter(SnapshotWriter&& other) noexcept
    : target_(std::move(other.target_)),
      temporary_(std::exchange(other.temporary_, {})),
      directory_(std::move(other.directory_)),
      files_(std::move(other.files_)),
      disk_digests_(std::move(other.disk_digests_)),
      linked_(std::move(other.linked_)) {}

SnapshotWriter::~SnapshotWriter() {
  // What cannot be removed now is for sweep().
  if (!temporary_.empty()) (void)remove_directory_at(target_.store, temporary_.c_str());
}

void SnapshotWriter::step(const char* name) const {
  if (target_.before_step != nullptr) target_.before_step(name);
}

Result<FdRef> SnapshotWriter::create_part(const char* name) {
  step("create part");
  Fd file = TRY(create_file_at(directory_.ref(), name));
  return files_.emplace_back(name, std::move(file)).second.ref();
}

Result<> SnapshotWriter::write_part(const char* name, const Sealed& part) {
  const FdRef file = TRY(create_part(name));
  step("write part");
  return write_at(file, std::as_bytes(std::span(part.bytes)), 0);
}

Result<FdRef> SnapshotWriter::create_disk(size_t place) {
  const std::string name = disk_name(place);
  const FdRef file = TRY(create_part(name.c_str()));
  disk_digests_.emplace(name, Digest{});
  return file;
}

Result<> SnapshotWriter::settle_disks(const GoOn& go_on) {
  for (const auto& [name, file] : files_) {
    const auto digest = disk_digests_.find(name);
    if (digest == disk_digests_.end()) continue;
    step("settle disk");
    digest->second = TRY(settle_disk(file.ref(), go_on));
  }
  return {};
}

Result<> SnapshotWriter::link_part(FdRef directory, const Part& part) {
  step("link part");
  const char* name = part.name.c_str();
  if (::linkat(directory.number(), name, directory_.ref().number(), name, 0) == 0) {
    const int file = ::openat(directory_.ref().number(), name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (file < 0) return fail_errno({Code::kUnavailable, "SNAPSHOT_IO"}, errno, "%s: open", name);
    files_.emplace_back(name, Fd(file));
  } else {
    // Landlock lets no file be in two directories, and some file systems do not either.
    const Fd from = TRY(open_part_at(directory, name, part.size_bytes));
    const FdRef to = TRY(create_part(name));
    TRY(copy_disk(from.ref(), to, part.size_bytes, [] { return Result<>(); }));
  }
  linked_.emplace(name, part);
  return {};
}

Result<std::vector<Part>> SnapshotWriter::describe_parts() const {
  std::vector<Part> parts;
  for (const auto& [name, file] : files_) {
    if (const auto linked = linked_.find(name); linked != linked_.end()) {
      parts.push_back(linked->second);
      continue;
    }
    Part part{.name = name,
              .size_bytes = TRY(file_size(file.ref())),
              .digest = {},
              .encoding = Encoding::kSparsePages};
    if (const auto disk = disk_digests_.find(name); disk != disk_digests_.end()) {
      part.digest = disk->second;
      part.encoding = Encoding::kSparseDisk;
    }
    if (const auto kind = sealed_kind(name)) {
      const auto bytes = TRY(read_part_at(directory_.ref(), name.c_str(), kMaxIndexBytes));
      part.digest = TRY(unseal(*kind, bytes)).digest;
      part.encoding = Encoding::kSealedMessage;
    }
    if (name == kCompressedMemoryName) part.encoding = Encoding::kZstdChunks;
    parts.push_back(part);
  }
  return parts;
}

Result<> SnapshotWriter::sync_parts() {
  for (const auto& [name, file] : files_) {
    step("sync part");
    TRY(sync_file(file.ref(), name.c_str()));
  }
  step("sync directory");
  return sync_file(directory_.ref(), temporary_.c_str());
}

Result<> SnapshotWriter::move_into_place() {
  const int store = target_.store.number();
  const char* from = temporary_.c_str();
  const char* to = target_.name.c_str();
  step("rename");
  if (target_.if_exists == IfExists::kReplace) {
    if (::renameat2(store, from, store, to, RENAME_EXCHANGE) == 0) return {};
    if (errno != ENOENT) return move_error(errno, target_.name);
  }
  if (::renameat2(store, from, store, to, RENAME_NOREPLACE) != 0) {
    return move_error(errno, target_.name);
  }
  temporary_.clear();
  return {};
}

Result<> SnapshotWriter::commit(Manifest manifest, const std::function<Result<>()>& last_word) {
  manifest.parts = TRY(describe_parts());
  TRY(write_part(kManifestName, encode_manifest(manifest)));
  // What the reader would refuse is not worth keeping.
  TRY(Snapshot::open(directory_.ref()));
  TRY(sync_parts());
  if (last_word) TRY(last_word());
  TRY(move_into_place());
  step("sync store");
  const Result<> synced = sync_file(target_.store, "the store");
  if (!temporary_.empty()) {
    // An exchange has left the old snapshot there. Its removal may be cut short: sweep() ends it.
    step("remove old");
    (void)remove_directory_at(target_.store, temporary_.c_str());
    temporary_.clear();
  }
  return synced;
}

Result<> remove_snapshot(FdRef store, const std::string& name) {
  TRY(check_name(name));
  TRY(check_is_snapshot(store, name));
  const std::string temporary = TRY(temporary_name(name));
  if (::renameat2(store.number(), name.c_str(), store.number(), temporary.c_str(),
                  RENAME_NOREPLACE) != 0) {
    return move_error(errno, name);
  }
  TRY(sync_file(store, "the store"));
  return remove_directory_at(store, temporary.c_str());
}

Result<size_t> sweep(FdRef store) {
  size_t removed = 0;
  for (const std::string& name : TRY(list_names(store, kMaxStoreEntries))) {
    if (!is_temporary(name)) continue;
    if (name.starts_with(std::string(kDiskFile) + kTemporaryMark)) {
      if (::unlinkat(store.number(), name.c_str(), 0) == 0) ++removed;
      continue;
    }
    const auto directory = open_directory_at(store, name.c_str());
    if (!directory || ::flock(directory->number(), LOCK_EX | LOCK_NB) != 0) continue;
    if (remove_directory_at(store, name.c_str())) ++removed;
  }
  return removed;
}

}  // namespace mayfly::snapshot
