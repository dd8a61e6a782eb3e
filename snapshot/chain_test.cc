// SPDX-License-Identifier: Apache-2.0
#include "snapshot/chain.h"

#include "snapshot/state_codec.h"
#include "snapshot/testing/sample.h"

#include <doctest/doctest.h>

#include <filesystem>

#include <fcntl.h>

namespace mayfly::snapshot {
namespace {

using testing::content_of;
using testing::fill_page;
using testing::kSampleBytes;
using testing::parent_of;
using testing::TempDirectory;
using testing::write_sample;

namespace fs = std::filesystem;

// base (FULL) <- one <- two <- three, each with pages new, changed and made zero.
struct Store {
  Store() {
    REQUIRE(write_sample(directory.fd(), {.id = "base", .ram = ram.ref()}).has_value());
    add("one", "base", {{0, 40}, {1, 0}, {300, 41}});
    add("two", "one", {{1, 50}, {300, 0}, {1000, 51}, {1279, 0}});
    add("three", "two", {{2, 60}, {1000, 0}, {600, 61}});
  }
  void add(const char* id, const char* parent,
           const std::vector<std::pair<uint64_t, uint8_t>>& pages) {
    std::vector<uint64_t> dirty;
    for (const auto& [page, seed] : pages) {
      fill_page(ram.ref(), page, seed);
      dirty.push_back(page);
    }
    REQUIRE(write_sample(directory.fd(), {.id = id,
                                          .ram = ram.ref(),
                                          .parent = parent_of(directory.fd(), parent),
                                          .dirty = dirty,
                                          .with_working_set = true})
                .has_value());
  }

  TempDirectory directory;
  Fd ram = testing::sample_ram();
};

std::vector<std::byte> memory_of(FdRef store, const char* name) {
  const Chain chain = *Chain::open(store, name);
  const Fd memfd = *Fd::memfd("restored", kSampleBytes);
  REQUIRE(chain.memory().apply_to(memfd.ref()).has_value());
  return content_of(memfd.ref());
}

Result<> merge_into(FdRef store, const char* from, size_t count, const char* to) {
  const Chain chain = TRY(Chain::open(store, from));
  SnapshotWriter writer = TRY(SnapshotWriter::create({.store = store, .name = to}));
  return merge({.chain = chain, .count = count, .id = to, .created_ns = 5}, writer);
}

TEST_CASE("a chain gives back the memory of its newest snapshot") {
  Store store;
  const Chain chain = *Chain::open(store.directory.fd(), "three");
  CHECK_EQ(chain.snapshots().size(), 4);
  CHECK_EQ(chain.newest().manifest().id, "three");
  CHECK(chain.verify_memory().has_value());
  CHECK(memory_of(store.directory.fd(), "three") == content_of(store.ram.ref()));
}

TEST_CASE("merged into a full snapshot, the machine is the same and the parents may go") {
  Store store;
  const FdRef fd = store.directory.fd();
  const Digest state = parent_of(fd, "three").memory_digest;
  REQUIRE(merge_into(fd, "three", 4, "flat").has_value());
  for (const char* name : {"three", "two", "one", "base"}) {
    REQUIRE(remove_snapshot(fd, name).has_value());
  }
  const Snapshot flat = *Snapshot::open(fd, "flat");
  CHECK_EQ(flat.manifest().kind, Kind::kFull);
  CHECK_FALSE(flat.manifest().parent.has_value());
  CHECK_EQ(flat.manifest().created_ns, 5);
  CHECK(flat.working_set().has_value());
  CHECK(flat.index()->digest != state);
  CHECK(flat.verify_memory().has_value());
  CHECK_EQ(encode_state(flat.state()).bytes, encode_state(testing::sample_state()).bytes);
  CHECK(memory_of(fd, "flat") == content_of(store.ram.ref()));
}

TEST_CASE("merged, a snapshot keeps what was on its newest's disks, or is refused") {
  Store store;
  const FdRef fd = store.directory.fd();
  const Fd old_disk = testing::sample_disk(), disk = testing::sample_disk();
  fill_page(disk.ref(), 7, 70);
  const auto add = [&](const char* id, const char* parent, FdRef content) {
    REQUIRE(write_sample(fd, {.id = id,
                              .ram = store.ram.ref(),
                              .parent = parent_of(fd, parent),
                              .dirty = {},
                              .disk = content})
                .has_value());
  };
  add("four", "three", old_disk.ref());
  add("five", "four", disk.ref());
  REQUIRE(merge_into(fd, "five", 2, "both").has_value());
  REQUIRE(merge_into(fd, "five", 6, "flat").has_value());
  for (const char* name : {"both", "flat"}) {
    const Snapshot merged = *Snapshot::open(fd, name);
    REQUIRE(merged.verify_disks().has_value());
    CHECK(content_of(merged.disk(1)) == content_of(disk.ref()));
    CHECK_FALSE(merged.disk(0).valid());
  }
  CHECK(Chain::open(fd, "five")->verify_disks().has_value());
  const Fd damaged = *Fd::open(store.directory.path("five/disk.1").c_str(), O_RDWR);
  fill_page(damaged.ref(), 0, 99);
  CHECK_EQ(merge_into(fd, "five", 2, "bad").error().reason(), "DISK_DAMAGED");
  CHECK_EQ(Snapshot::open(fd, "bad").error().code(), Code::kNotFound);
  // Those of its parents are not needed.
  CHECK_EQ(Chain::open(fd, "five")->verify_disks().error().reason(), "DISK_DAMAGED");
}

TEST_CASE("the same memory merges to the same full snapshot as was taken at once") {
  Store store;
  const FdRef fd = store.directory.fd();
  REQUIRE(merge_into(fd, "three", 4, "flat").has_value());
  REQUIRE(write_sample(fd, {.id = "direct", .ram = store.ram.ref()}).has_value());
  CHECK(parent_of(fd, "flat").memory_digest == parent_of(fd, "direct").memory_digest);
}

TEST_CASE("merged into its parent, a diff stands on what the parent stood on") {
  Store store;
  const FdRef fd = store.directory.fd();
  REQUIRE(merge_into(fd, "three", 2, "both").has_value());
  REQUIRE(remove_snapshot(fd, "three").has_value());
  REQUIRE(remove_snapshot(fd, "two").has_value());
  const Chain chain = *Chain::open(fd, "both");
  CHECK_EQ(chain.snapshots().size(), 3);
  CHECK_EQ(chain.newest().manifest().parent->id, "one");
  CHECK(memory_of(fd, "both") == content_of(store.ram.ref()));
  // Made zero in `three` over a page of `two`, and in `two` over one of `one`.
  CHECK(chain.newest().index()->index.find(1)->zero[1000 - 512]);
  CHECK(chain.newest().index()->index.find(0)->zero[300]);
}

TEST_CASE("a chain that cannot be merged so is refused") {
  Store store;
  CHECK_EQ(merge_into(store.directory.fd(), "three", 1, "x").error().reason(), "MERGE_COUNT");
  CHECK_EQ(merge_into(store.directory.fd(), "three", 5, "x").error().reason(), "MERGE_COUNT");
}

TEST_CASE("a parent that is gone, another, or of no memory is found out") {
  Store store;
  const FdRef fd = store.directory.fd();
  const auto reason = [&] { return Chain::open(fd, "three").error().reason(); };
  fs::rename(store.directory.path("one"), store.directory.path("kept"));
  CHECK_EQ(reason(), "PARENT_NOT_FOUND");
  // The same snapshot but for one page.
  fill_page(store.ram.ref(), 0, 99);
  REQUIRE(write_sample(fd, {.id = "one",
                            .ram = store.ram.ref(),
                            .parent = parent_of(fd, "base"),
                            .dirty = {0, 1, 300}})
              .has_value());
  CHECK_EQ(reason(), "PARENT_MISMATCH");
  REQUIRE(remove_snapshot(fd, "one").has_value());
  auto writer = SnapshotWriter::create({.store = fd, .name = "one"});
  REQUIRE(writer->write_part(kStateName, encode_state(testing::sample_state())).has_value());
  Manifest manifest = testing::sample_manifest("one");
  manifest.kind = Kind::kStateOnly;
  REQUIRE(writer->commit(std::move(manifest)).has_value());
  CHECK_EQ(reason(), "PARENT_MISMATCH");
  REQUIRE(remove_snapshot(fd, "one").has_value());
  // A circle: two's parent is said to be at `one`, where three is.
  fs::copy(store.directory.path("three"), store.directory.path("one"));
  CHECK_EQ(reason(), "PARENT_MISMATCH");
}

TEST_CASE("a chain has at most 64 snapshots") {
  TempDirectory store;
  const Fd ram = testing::sample_ram();
  REQUIRE(write_sample(store.fd(), {.id = "s0", .ram = ram.ref()}).has_value());
  for (int i = 1; i <= 64; ++i) {
    REQUIRE(write_sample(store.fd(), {.id = "s" + std::to_string(i),
                                      .ram = ram.ref(),
                                      .parent = parent_of(store.fd(), "s" + std::to_string(i - 1)),
                                      .dirty = {}})
                .has_value());
  }
  CHECK(Chain::open(store.fd(), "s63").has_value());
  CHECK_EQ(Chain::open(store.fd(), "s64").error().reason(), "CHAIN_LENGTH");
}

TEST_CASE("a snapshot's directory may be moved anywhere") {
  Store store;
  const TempDirectory elsewhere;
  for (const char* name : {"three", "two", "one", "base"}) {
    fs::copy(store.directory.path(name), elsewhere.path(name));
  }
  CHECK(memory_of(elsewhere.fd(), "three") == content_of(store.ram.ref()));
}

}  // namespace
}  // namespace mayfly::snapshot
