// SPDX-License-Identifier: Apache-2.0
#include "daemon/snapshot_manager.h"
#include "daemon/testing/rig.h"

#include <doctest/doctest.h>

#include <filesystem>

using namespace mayfly;
using namespace mayfly::daemon;
using namespace mayfly::daemon::testing;

namespace {

using Ids = std::vector<std::string>;

/// full <- one <- two <- three, each made by a VM that was restored from the one before.
struct Scene : Rig {
  Scene() {
    REQUIRE(manager->create(request("full", "a guest"), soon()));
    REQUIRE(save("full", "full", false));
    for (const auto& [from, to] : {std::pair("full", "one"), {"one", "two"}, {"two", "three"}}) {
      REQUIRE(snapshots->restore({.snapshot_id = from, .vm_id = to, .start = true}, soon()));
      REQUIRE(save(to, to, true));
    }
  }
  Result<SnapshotOutcome> save(const std::string& vm_id, const std::string& id, bool is_diff) {
    return snapshots->create({.vm_id = vm_id, .snapshot_id = id, .is_diff = is_diff}, soon());
  }
  std::string refused(const RebasePlan& plan) {
    const auto rebased = snapshots->rebase(plan, soon());
    REQUIRE_FALSE(rebased);
    INFO(rebased.error().message());
    CHECK(count_entries(store_dir()) == 4);
    return rebased.error().reason();
  }
  Ids chain(const std::string& id) { return snapshots->verify(id)->verified_ids; }
};

}  // namespace

TEST_CASE("a diff becomes a full snapshot in its place, and those below may go") {
  Scene scene;
  const auto before = scene.snapshots->get("three")->manifest;
  const auto rebased = scene.snapshots->rebase({.snapshot_id = "three"}, soon());
  REQUIRE(rebased);
  CHECK(rebased->merged_ids == Ids{"three", "two", "one", "full"});
  CHECK(rebased->snapshot.manifest->kind == snapshot::Kind::kFull);
  CHECK(rebased->snapshot.manifest->created_ns == before->created_ns);
  CHECK(scene.chain("three") == Ids{"three"});
  for (const char* id : {"two", "one", "full"}) CHECK(scene.snapshots->remove(id));
  REQUIRE(
      scene.snapshots->restore({.snapshot_id = "three", .vm_id = "last", .start = true}, soon()));
  CHECK(scene.manager->wait("last", {.states = {}, .guest_ready = true}, soon()));
  CHECK(count_entries(scene.store_dir()) == 1);
}

TEST_CASE("a diff is put on one further down, in its place or as another") {
  Scene scene;
  const auto other = scene.snapshots->rebase(
      {.snapshot_id = "three", .onto_id = "one", .new_snapshot_id = "other"}, soon());
  REQUIRE(other);
  CHECK(other->merged_ids == Ids{"three", "two"});
  CHECK(other->snapshot.manifest->id == "other");
  CHECK(scene.chain("other") == Ids{"other", "one", "full"});
  CHECK(scene.chain("three") == Ids{"three", "two", "one", "full"});
  REQUIRE(scene.snapshots->rebase({.snapshot_id = "three", .onto_id = "full"}, soon()));
  CHECK(scene.chain("three") == Ids{"three", "full"});
  CHECK(scene.snapshots->remove("two"));
  CHECK(scene.snapshots->remove("one").error().reason() == "HAS_DIFFS");
}

TEST_CASE("what would break another snapshot, or change nothing, is refused") {
  Scene scene;
  CHECK(scene.refused({.snapshot_id = "two"}) == "HAS_DIFFS");
  CHECK(scene.refused({.snapshot_id = "full"}) == "NOTHING_TO_MERGE");
  CHECK(scene.refused({.snapshot_id = "three", .onto_id = "two"}) == "NOTHING_TO_MERGE");
  CHECK(scene.refused({.snapshot_id = "three", .onto_id = "three"}) == "NOT_IN_CHAIN");
  CHECK(scene.refused({.snapshot_id = "one", .onto_id = "two"}) == "NOT_IN_CHAIN");
  CHECK(scene.refused({.snapshot_id = "none"}) == "SNAPSHOT_NOT_FOUND");
  CHECK(scene.refused({.snapshot_id = "three", .onto_id = "../x"}) == "ID_BAD");
  CHECK(scene.refused({.snapshot_id = "three", .onto_id = "one", .new_snapshot_id = "full"}) ==
        "SNAPSHOT_EXISTS");
  // As another it stands in nobody's way.
  CHECK(scene.snapshots->rebase({.snapshot_id = "two", .new_snapshot_id = "flat"}, soon()));
  CHECK(scene.chain("flat") == Ids{"flat"});
}

TEST_CASE("a VM that stands on what was rebased is saved as a diff over the new one") {
  Scene scene;
  REQUIRE(
      scene.snapshots->restore({.snapshot_id = "three", .vm_id = "user", .start = true}, soon()));
  REQUIRE(scene.snapshots->rebase({.snapshot_id = "three"}, soon()));
  REQUIRE(scene.save("user", "next", true));
  CHECK(scene.chain("next") == Ids{"next", "three"});
  REQUIRE(scene.snapshots->rebase({.snapshot_id = "next"}, soon()));
  CHECK(scene.chain("next") == Ids{"next"});
}

TEST_CASE("a rebase that is cancelled, or finds damage, leaves all as it was") {
  Scene scene;
  for (int patience = 0; patience < 4; ++patience) {
    int asked = 0;
    Call call = soon();
    call.is_cancelled = [&] { return asked++ >= patience; };
    const auto rebased = scene.snapshots->rebase({.snapshot_id = "three"}, call);
    if (rebased) break;
    CHECK(rebased.error().reason() == "CANCELLED");
    CHECK(scene.chain("three") == Ids{"three", "two", "one", "full"});
    CHECK(count_entries(scene.store_dir()) == 4);
  }
}
