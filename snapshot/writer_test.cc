// SPDX-License-Identifier: Apache-2.0
// Crashes and full disks for real: children killed at each step, tmpfs of every size.
#include "snapshot/writer.h"

#include "snapshot/files.h"
#include "snapshot/reader.h"
#include "snapshot/state_codec.h"
#include "snapshot/testing/sample.h"

#include <doctest/doctest.h>

#include <csignal>
#include <cstdio>
#include <filesystem>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::snapshot {
namespace {

using testing::sample_ram;
using testing::TempDirectory;
using testing::write_sample;

// Which of the two versions is there: told apart by the page that differs.
enum class Found { kNothing, kOld, kNew, kBroken };

Found what_is_in(FdRef store, const Digest& old_memory) {
  const auto snapshot = Snapshot::open(store, "snap");
  if (!snapshot) {
    return snapshot.error().code() == Code::kNotFound ? Found::kNothing : Found::kBroken;
  }
  if (!snapshot->verify_memory() || !snapshot->verify_disks()) return Found::kBroken;
  return snapshot->index()->digest == old_memory ? Found::kOld : Found::kNew;
}

size_t entries(const TempDirectory& store) { return list_names(store.fd(), 100)->size(); }

SnapshotWriter::Target target(FdRef store, IfExists if_exists) {
  return {.store = store, .name = "snap", .if_exists = if_exists};
}

// The old snapshot, or nothing, and a new one made over it.
struct Scene {
  explicit Scene(bool with_old) : old_ram(sample_ram()), new_ram(sample_ram()) {
    testing::fill_page(new_ram.ref(), 300, 99);
    if (!with_old) return;
    REQUIRE(write_sample(store.fd(), {.id = "snap", .ram = old_ram.ref()}).has_value());
    old_memory = testing::parent_of(store.fd(), "snap").memory_digest;
  }
  Result<> write(IfExists if_exists, void (*before_step)(const char*) = nullptr) {
    auto where = target(store.fd(), if_exists);
    where.before_step = before_step;
    SnapshotWriter writer = TRY(SnapshotWriter::create(where));
    return write_sample(
        writer, {.id = "snap", .ram = new_ram.ref(), .with_working_set = true, .disk = disk.ref()});
  }

  TempDirectory store;
  Fd old_ram, new_ram;
  Fd disk = testing::sample_disk();
  Digest old_memory;
};

TEST_CASE("an existing snapshot is refused, and untouched") {
  Scene scene(true);
  CHECK_EQ(scene.write(IfExists::kRefuse).error().reason(), "SNAPSHOT_EXISTS");
  CHECK_EQ(what_is_in(scene.store.fd(), scene.old_memory), Found::kOld);
  CHECK_EQ(entries(scene.store), 1);
}

TEST_CASE("one that appears meanwhile is not overwritten") {
  Scene scene(false);
  auto writer = SnapshotWriter::create(target(scene.store.fd(), IfExists::kRefuse));
  REQUIRE(writer.has_value());
  REQUIRE(write_sample(scene.store.fd(), {.id = "snap", .ram = scene.old_ram.ref()}).has_value());
  const Digest first = testing::parent_of(scene.store.fd(), "snap").memory_digest;
  const auto late = write_sample(*writer, {.id = "snap", .ram = scene.new_ram.ref()});
  CHECK_EQ(late.error().reason(), "SNAPSHOT_EXISTS");
  CHECK_EQ(what_is_in(scene.store.fd(), first), Found::kOld);
}

TEST_CASE("a replacement leaves the new one alone") {
  for (const bool with_old : {true, false}) {
    Scene scene(with_old);
    REQUIRE(scene.write(IfExists::kReplace).has_value());
    CHECK_EQ(what_is_in(scene.store.fd(), scene.old_memory), Found::kNew);
    CHECK_EQ(entries(scene.store), 1);
  }
}

TEST_CASE("only snapshots are replaced or removed") {
  Scene scene(false);
  std::filesystem::create_directories(scene.store.path("snap/precious"));
  CHECK_EQ(scene.write(IfExists::kReplace).error().reason(), "NOT_A_SNAPSHOT");
  CHECK_EQ(remove_snapshot(scene.store.fd(), "snap").error().reason(), "NOT_A_SNAPSHOT");
  CHECK(std::filesystem::exists(scene.store.path("snap/precious")));
}

TEST_CASE("names that lead elsewhere or look temporary are refused") {
  const TempDirectory store;
  for (const char* name : {"", ".", "..", "../x", "a/b", "a.tmp-0", "sp ace"}) {
    CHECK_EQ(SnapshotWriter::create({.store = store.fd(), .name = name}).error().reason(),
             "SNAPSHOT_NAME");
    CHECK_EQ(remove_snapshot(store.fd(), name).error().reason(), "SNAPSHOT_NAME");
  }
}

TEST_CASE("a writer that is given up leaves nothing, and neither does a commit that is refused") {
  Scene scene(false);
  {
    auto writer = SnapshotWriter::create(target(scene.store.fd(), IfExists::kRefuse));
    REQUIRE(writer.has_value());
    REQUIRE(writer->create_part(kMemoryName).has_value());
    CHECK_EQ(entries(scene.store), 1);
  }
  CHECK_EQ(entries(scene.store), 0);
  {
    // A part that a monitor has got wrong.
    auto writer = SnapshotWriter::create(target(scene.store.fd(), IfExists::kRefuse));
    REQUIRE(writer->write_part(kStateName, seal(PartKind::kState, {})).has_value());
    Manifest manifest = testing::sample_manifest("snap");
    manifest.kind = Kind::kStateOnly;
    const auto committed = writer->commit(std::move(manifest));
    REQUIRE_FALSE(committed.has_value());
    CHECK_EQ(committed.error().reason(), "PART_DAMAGED");
  }
  CHECK_EQ(entries(scene.store), 0);
}

TEST_CASE("a state without memory is a snapshot too") {
  const TempDirectory store;
  auto writer = SnapshotWriter::create(target(store.fd(), IfExists::kRefuse));
  REQUIRE(writer->write_part(kStateName, encode_state(testing::sample_state())).has_value());
  Manifest manifest = testing::sample_manifest("snap");
  manifest.kind = Kind::kStateOnly;
  REQUIRE(writer->commit(std::move(manifest)).has_value());
  const auto snapshot = Snapshot::open(store.fd(), "snap");
  REQUIRE(snapshot.has_value());
  CHECK_FALSE(snapshot->memory().valid());
  CHECK(snapshot->verify_memory().has_value());
}

TEST_CASE("a removed snapshot is gone") {
  Scene scene(true);
  REQUIRE(remove_snapshot(scene.store.fd(), "snap").has_value());
  CHECK_EQ(entries(scene.store), 0);
  CHECK_EQ(remove_snapshot(scene.store.fd(), "snap").error().code(), Code::kNotFound);
}

TEST_CASE("a sweep takes what the dead have left, and nothing of the living") {
  Scene scene(true);
  auto living = SnapshotWriter::create(target(scene.store.fd(), IfExists::kReplace));
  REQUIRE(living.has_value());
  std::filesystem::create_directory(scene.store.path("snap.tmp-dead"));
  REQUIRE(create_file_at(scene.store.fd(), "snap.tmp-dead/memory").has_value());
  REQUIRE(create_file_at(scene.store.fd(), ".disk.tmp-0123456789abcdef").has_value());
  CHECK_EQ(*sweep(scene.store.fd()), 2);
  CHECK_EQ(entries(scene.store), 2);
  CHECK(write_sample(*living, {.id = "snap", .ram = scene.new_ram.ref()}).has_value());
}

int steps_left = 0;
void die_at_step(const char*) {
  if (steps_left-- == 0) ::raise(SIGKILL);
}

TEST_CASE("a writer killed before any step leaves the old snapshot, the new one, or none") {
  for (const bool with_old : {false, true}) {
    int at = 0;
    bool survived = false;
    int old_seen = 0, new_seen = 0;
    for (; !survived; ++at) {
      REQUIRE_LT(at, 100);
      Scene scene(with_old);
      const pid_t child = ::fork();
      REQUIRE_GE(child, 0);
      if (child == 0) {
        steps_left = at;
        ::_exit(scene.write(IfExists::kReplace, die_at_step) ? 0 : 1);
      }
      int status = 0;
      REQUIRE_EQ(::waitpid(child, &status, 0), child);
      survived = WIFEXITED(status);
      REQUIRE((survived ? WEXITSTATUS(status) == 0 : WTERMSIG(status) == SIGKILL));
      INFO("killed before step " << at);
      const Found found = what_is_in(scene.store.fd(), scene.old_memory);
      const Found before = with_old ? Found::kOld : Found::kNothing;
      CHECK((found == before || found == Found::kNew));
      (found == before ? old_seen : new_seen) += 1;
      CHECK(sweep(scene.store.fd()).has_value());
      CHECK_EQ(entries(scene.store), found == Found::kNothing ? 0 : 1);
      CHECK_EQ(what_is_in(scene.store.fd(), scene.old_memory), found);
    }
    std::printf("%d steps: %d left what was there, %d the new one\n", at - 1, old_seen, new_seen);
    CHECK_GE(old_seen, 18);
    CHECK_GE(new_seen, 2);
  }
}

// A tmpfs of `pages` pages over `path`, in a mount namespace of our own.
bool mount_tmpfs(const std::string& path, size_t pages) {
  const std::string options = "size=" + std::to_string(pages * kPageBytes) + ",nr_inodes=64";
  return ::mount("snapshot-test", path.c_str(), "tmpfs", 0, options.c_str()) == 0;
}

TEST_CASE("a disk that is full at any page leaves what was there before") {
  const bool mine = ::unshare(CLONE_NEWNS) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0;
  if (!mine || ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    std::printf("SKIPPED: a disk that is full at any page: no mount namespace may be made here\n");
    return;
  }
  const Fd ram = sample_ram();
  const Fd disk = testing::sample_disk();
  for (const bool with_old : {false, true}) {
    size_t failures = 0;
    for (size_t pages = with_old ? 18 : 1;; ++pages) {
      REQUIRE_LT(pages, 200);
      const TempDirectory place;
      if (!mount_tmpfs(place.path(), pages)) {
        std::printf("SKIPPED: a disk that is full at any page: tmpfs cannot be mounted here\n");
        return;
      }
      bool done = false;
      {
        const Fd store = *Fd::open(place.path().c_str(), O_RDONLY | O_DIRECTORY);
        Digest old_memory;
        if (with_old) {
          if (!write_sample(store.ref(), {.id = "snap", .ram = ram.ref()})) {
            ::umount2(place.path().c_str(), MNT_DETACH);
            continue;
          }
          old_memory = testing::parent_of(store.ref(), "snap").memory_digest;
        }
        auto writer = SnapshotWriter::create(target(store.ref(), IfExists::kReplace));
        const Fd fresh = sample_ram();
        testing::fill_page(fresh.ref(), 300, 99);
        const Result<> written =
            writer ? write_sample(*writer, {.id = "snap", .ram = fresh.ref(), .disk = disk.ref()})
                   : std::unexpected(writer.error());
        INFO("with " << pages << " pages");
        done = written.has_value();
        if (!done) {
          ++failures;
          CHECK_EQ(written.error().reason(), "NO_SPACE");
          CHECK_EQ(written.error().code(), Code::kResourceExhausted);
          if (writer) {
            const SnapshotWriter given_up = *std::move(writer);
          }
        }
        CHECK_EQ(what_is_in(store.ref(), old_memory), done       ? Found::kNew
                                                      : with_old ? Found::kOld
                                                                 : Found::kNothing);
        CHECK_EQ(list_names(store.ref(), 10)->size(), done || with_old ? 1 : 0);
      }
      ::umount2(place.path().c_str(), MNT_DETACH);
      if (done) break;
    }
    std::printf("%zu sizes of disk were too small\n", failures);
    CHECK_GE(failures, 10);
  }
}

}  // namespace
}  // namespace mayfly::snapshot
