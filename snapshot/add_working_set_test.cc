// SPDX-License-Identifier: Apache-2.0
#include "snapshot/add_working_set.h"

#include "snapshot/chain.h"
#include "snapshot/files.h"
#include "snapshot/reader.h"
#include "snapshot/testing/sample.h"
#include "snapshot/writer.h"

#include <doctest/doctest.h>

#include <csignal>

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::snapshot {
namespace {

using testing::sample_ram;
using testing::TempDirectory;
using testing::write_sample;

struct Scene {
  Scene() {
    REQUIRE(write_sample(store.fd(), {.id = "snap", .ram = ram.ref()}).has_value());
    const auto snapshot = Snapshot::open(store.fd(), "snap");
    set = {.memory_bytes = snapshot->manifest().machine.memory_bytes,
           .runs = {{.first_page = 3, .pages = 2, .dirtied = true}, {.first_page = 1, .pages = 1}}};
    memory = testing::parent_of(store.fd(), "snap").memory_digest;
  }
  size_t entries() const { return list_names(store.fd(), 100)->size(); }

  TempDirectory store;
  Fd ram = sample_ram();
  WorkingSet set;
  Digest memory;
};

TEST_CASE("a snapshot gets a working set, and another one, and stays what it was") {
  Scene scene;
  struct stat before = {};
  REQUIRE_EQ(::stat(scene.store.path("snap/memory").c_str(), &before), 0);
  for (const uint32_t first : {5u, 7u}) {
    scene.set.runs[0].first_page = first;
    REQUIRE(add_working_set(scene.store.fd(), "snap", scene.set).has_value());
    const auto snapshot = Snapshot::open(scene.store.fd(), "snap");
    REQUIRE(snapshot.has_value());
    REQUIRE(snapshot->working_set().has_value());
    CHECK_EQ(*snapshot->working_set(), scene.set);
    CHECK_EQ(snapshot->index()->digest, scene.memory);
    CHECK(snapshot->verify_memory().has_value());
    CHECK_EQ(scene.entries(), 1);
  }
  // No byte of the memory was copied.
  struct stat after = {};
  REQUIRE_EQ(::stat(scene.store.path("snap/memory").c_str(), &after), 0);
  CHECK_EQ(after.st_ino, before.st_ino);
  CHECK_EQ(after.st_nlink, 1);
}

TEST_CASE("what is another memory's, or nobody's, is refused and changes nothing") {
  Scene scene;
  CHECK_EQ(add_working_set(scene.store.fd(), "none", scene.set).error().code(), Code::kNotFound);
  WorkingSet other = scene.set;
  other.memory_bytes += kPageBytes;
  CHECK_EQ(add_working_set(scene.store.fd(), "snap", other).error().reason(), "MEMORY_SIZE");
  other = scene.set;
  other.runs.push_back({.first_page = 4, .pages = 1});
  CHECK_EQ(add_working_set(scene.store.fd(), "snap", other).error().reason(), "PART_DAMAGED");
  CHECK_EQ(scene.entries(), 1);
  CHECK_FALSE(Snapshot::open(scene.store.fd(), "snap")->working_set().has_value());
}

int steps_left = 0;
void die_at_step(const char*) {
  if (steps_left-- == 0) ::raise(SIGKILL);
}

TEST_CASE("who is killed before any step leaves the snapshot, with the working set or without") {
  int with = 0, without = 0;
  for (int at = 0;; ++at) {
    REQUIRE_LT(at, 100);
    Scene scene;
    const pid_t child = ::fork();
    REQUIRE_GE(child, 0);
    if (child == 0) {
      steps_left = at;
      ::_exit(add_working_set(scene.store.fd(), "snap", scene.set, die_at_step) ? 0 : 1);
    }
    int status = 0;
    REQUIRE_EQ(::waitpid(child, &status, 0), child);
    INFO("killed before step " << at);
    const auto snapshot = Snapshot::open(scene.store.fd(), "snap");
    REQUIRE(snapshot.has_value());
    CHECK(snapshot->verify_memory().has_value());
    CHECK_EQ(snapshot->index()->digest, scene.memory);
    (snapshot->working_set() ? with : without) += 1;
    CHECK(sweep(scene.store.fd()).has_value());
    CHECK_EQ(scene.entries(), 1);
    if (WIFEXITED(status)) break;
  }
  CHECK_GE(without, 8);
  CHECK_GE(with, 2);
}

}  // namespace
}  // namespace mayfly::snapshot
