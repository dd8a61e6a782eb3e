// SPDX-License-Identifier: Apache-2.0
// What is on disks goes into snapshots and out of them, and snapshots without a memory.
#include "daemon/snapshot_manager.h"
#include "daemon/testing/rig.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

#include <unistd.h>

using namespace mayfly;
using namespace mayfly::daemon;
using namespace mayfly::daemon::testing;

namespace fs = std::filesystem;

namespace {

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void overwrite(const std::string& path, const std::string& text) {
  std::fstream(path, std::ios::in | std::ios::out | std::ios::binary) << text;
}

struct Scene : Rig {
  /// A VM with a writable disk of 4 KiB, which begins with `text`, and a read-only one.
  void make(const std::string& vm_id, const std::string& text, const std::string& words = "") {
    write(("disk." + vm_id).c_str(), 4096);
    overwrite(disk(vm_id), text);
    CreateRequest wanted = request(vm_id, words);
    wanted.spec.disks.push_back({.path = path("disk"), .read_only = true, .serial = {}});
    wanted.spec.disks.push_back({.path = disk(vm_id), .read_only = false, .serial = "w"});
    REQUIRE(manager->create(wanted, soon()));
    REQUIRE(manager->wait(vm_id, {.states = {}, .guest_ready = true}, soon()));
  }
  std::string disk(const std::string& vm_id) const { return path(("disk." + vm_id).c_str()); }

  Result<SnapshotOutcome> save(const std::string& vm_id, const std::string& id) {
    return snapshots->create({.vm_id = vm_id, .snapshot_id = id}, soon());
  }
  RestoreVmPlan plan(const std::string& id, const std::string& vm_id) const {
    RestoreVmPlan plan{.snapshot_id = id, .vm_id = vm_id, .start = true};
    plan.overrides.disks.push_back({.index = 0, .path = path("disk"), .limits = {}});
    return plan;
  }
  Result<VmOutcome> restore(const std::string& id, const std::string& vm_id) {
    return snapshots->restore(plan(id, vm_id), soon());
  }
  /// The disk without a name that a VM's monitor has.
  std::string own_disk(const std::string& vm_id) {
    const auto fds = fs::path("/proc") / std::to_string(manager->get(vm_id)->monitor_pid) / "fd";
    for (const auto& entry : fs::directory_iterator(fds)) {
      const std::string target = fs::read_symlink(entry).string();
      if (target.starts_with(store_dir()) && target.ends_with(" (deleted)")) return entry.path();
    }
    FAIL("it has no disk of its own");
    return {};
  }
};

}  // namespace

TEST_CASE("a restored VM has what was on the disk at the save, and a disk of its own") {
  Scene scene;
  scene.make("a", "at the save");
  const auto saved = scene.save("a", "s");
  REQUIRE(saved);
  const snapshot::Manifest& manifest = *saved->snapshot.manifest;
  CHECK_FALSE(manifest.machine.disks[0].captured);
  CHECK(manifest.machine.disks[1].captured);
  CHECK(scene.snapshots->verify("s"));
  overwrite(scene.disk("a"), "after it...");
  for (const char* id : {"b", "c"}) {
    const auto restored = scene.restore("s", id);
    REQUIRE(restored);
    CHECK(restored->vm.spec.disks[1].own);
    CHECK(content(scene.own_disk(id)) == "at the save" + std::string(4096 - 11, 'x'));
    overwrite(scene.own_disk(id), id);
  }
  CHECK(content(scene.own_disk("b")).starts_with("bt the save"));
  CHECK(content(scene.own_disk("c")).starts_with("ct the save"));
  CHECK(content(scene.disk("a")).starts_with("after it..."));
  CHECK(scene.snapshots->verify("s"));
  // What a restored VM has on its own disk is saved like any other's.
  REQUIRE(scene.save("b", "t"));
  REQUIRE(scene.manager->remove("b", true, soon()));
  REQUIRE(scene.restore("t", "b"));
  CHECK(content(scene.own_disk("b")).starts_with("bt the save"));
  CHECK(count_entries(scene.store_dir()) == 2);
}

TEST_CASE("a disk that is named takes the captured one's place, and one that is kept is needed") {
  Scene scene;
  scene.make("a", "mine");
  REQUIRE(scene.save("a", "s"));
  scene.write("other", 4096);
  RestoreVmPlan other = scene.plan("s", "b");
  other.overrides.disks.push_back({.index = 1, .path = scene.path("other"), .limits = {}});
  const auto restored = scene.snapshots->restore(other, soon());
  REQUIRE(restored);
  CHECK(restored->vm.spec.disks[1].path == scene.path("other"));
  REQUIRE(scene.snapshots->create({.vm_id = "a", .snapshot_id = "kept", .caller_keeps_disks = true},
                                  soon()));
  CHECK_FALSE(fs::exists(scene.store_dir() + "/kept/disk.1"));
  CHECK(scene.restore("kept", "c").error().reason() == "DISK_MISSING");
}

TEST_CASE("clones of a snapshot and of a live VM each have a disk of their own") {
  Scene scene;
  scene.make("a", "live");
  REQUIRE(scene.save("a", "s"));
  const auto check = [&](ClonePlan plan, const std::vector<std::string>& ids) {
    for (const std::string& id : ids) {
      plan.targets.push_back({id, {}});
      if (!plan.snapshot_id.empty()) plan.targets.back().overrides = scene.plan("s", id).overrides;
    }
    plan.start = true;
    std::map<std::string, std::string> failed;
    REQUIRE(scene.snapshots->clone(
        plan,
        [&](const std::string& id, const Result<VmOutcome>& outcome) {
          if (!outcome) failed[id] = outcome.error().message();
        },
        soon()));
    CHECK(failed == std::map<std::string, std::string>());
    for (const std::string& id : ids) {
      CHECK(content(scene.own_disk(id)).starts_with("live"));
      overwrite(scene.own_disk(id), id);
    }
    for (const std::string& id : ids) CHECK(content(scene.own_disk(id)).starts_with(id));
  };
  check({.snapshot_id = "s"}, {"c-0", "c-1", "c-2"});
  check({.source_vm_id = "a"}, {"f-0", "f-1", "f-2"});
  overwrite(scene.own_disk("f-1"), "live again");
  check({.source_vm_id = "f-1"}, {"g"});
  CHECK(content(scene.disk("a")).starts_with("live"));
  CHECK(count_entries(scene.store_dir()) == 1);
}

TEST_CASE("a disk that cannot be captured leaves the VM as it was, and nothing in the store") {
  Scene scene;
  scene.make("a", "fine");
  REQUIRE(scene.save("a", "s"));
  const size_t descriptors = open_descriptors();
  const auto nothing_left = [&] {
    CHECK(scene.manager->wait("a", {.states = {VmState::kRunning}}, soon()));
    CHECK(count_entries(scene.store_dir()) == 1);
    CHECK(open_descriptors() == descriptors);
  };
  // Given up at each question in turn, some of which are asked in the middle of a disk.
  for (int patience = 0; patience < 50; ++patience) {
    int asked = 0;
    Call call = soon();
    call.is_cancelled = [&] { return asked++ >= patience; };
    const auto saved = scene.snapshots->create({.vm_id = "a", .snapshot_id = "c"}, call);
    if (saved) REQUIRE(scene.snapshots->remove("c"));
    // The last question, on the way back to running, is answered as a deadline.
    const Code code = saved ? Code::kCancelled : saved.error().code();
    CHECK((code == Code::kCancelled || code == Code::kDeadlineExceeded));
    nothing_left();
  }
  fs::resize_file(scene.disk("a"), 512);
  CHECK(scene.save("a", "t").error().reason() == "DISK_MISMATCH");
  nothing_left();
  fs::resize_file(scene.disk("a"), 4096);
  CHECK(scene.save("a", "t"));
  scene.make("liar", "x", "fake.save=bad_disk");
  CHECK(scene.save("liar", "u").error().reason() == "SAVED_STATE");
  CHECK(scene.manager->get("liar")->state == VmState::kRunning);
}

TEST_CASE("a damaged disk is found by a verification, and by a restore that is to verify") {
  Scene scene;
  scene.make("a", "good");
  REQUIRE(scene.save("a", "s"));
  overwrite(scene.store_dir() + "/s/disk.1", "evil");
  CHECK(scene.snapshots->verify("s").error().reason() == "DISK_DAMAGED");
  RestoreVmPlan plan = scene.plan("s", "b");
  plan.verify_memory = true;
  CHECK(scene.snapshots->restore(plan, soon()).error().reason() == "DISK_DAMAGED");
  CHECK(scene.manager->vm_count() == 1);
  fs::resize_file(scene.store_dir() + "/s/disk.1", 512);
  CHECK(scene.restore("s", "b").error().reason() == "PART_SIZE");
}

TEST_CASE("a state without memory is saved beside it, and goes on from a memory that is given") {
  Scene scene;
  scene.make("a", "disk");
  const auto saved = scene.snapshots->create(
      {.vm_id = "a", .snapshot_id = "s", .is_state_only = true, .stay_paused = true}, soon());
  REQUIRE(saved);
  CHECK(saved->snapshot.manifest->kind == snapshot::Kind::kStateOnly);
  CHECK(saved->snapshot.manifest->machine.disks[1].captured);
  CHECK(saved->vm.state == VmState::kPaused);
  CHECK(scene.snapshots->verify("s"));
  REQUIRE(scene.manager->resume("a", soon()));
  // It has left no memory behind: the first FULL still does, and is a base.
  REQUIRE(scene.save("a", "full"));
  CHECK(scene.snapshots->create({.vm_id = "a", .snapshot_id = "diff", .is_diff = true}, soon()));
  CHECK(scene.restore("s", "b").error().reason() == "NO_MEMORY");
  RestoreVmPlan plan = scene.plan("s", "b");
  const auto refused = [&](const std::string& path) {
    plan.memory_path = path;
    return std::string(scene.snapshots->restore(plan, soon()).error().reason());
  };
  CHECK(refused("relative") == "PATH_NOT_ABSOLUTE");
  CHECK(refused(scene.path("none")) == "FILE_NOT_FOUND");
  CHECK(refused(scene.store_dir()) == "NOT_A_FILE");
  CHECK(refused(scene.path("disk")) == "MEMORY_MISMATCH");
  plan.snapshot_id = "full";
  CHECK(refused(scene.store_dir() + "/full/memory") == "MEMORY_PATH");
  plan.snapshot_id = "s";
  plan.memory_path = scene.store_dir() + "/full/memory";
  REQUIRE(scene.snapshots->restore(plan, soon()));
  CHECK(scene.manager->wait("b", {.states = {}, .guest_ready = true}, soon()));
  // Its memory stands on no snapshot.
  CHECK(scene.snapshots->create({.vm_id = "b", .snapshot_id = "d", .is_diff = true}, soon())
            .error()
            .reason() == "NO_BASE");
  CHECK(scene.save("b", "f"));
  CHECK(scene.snapshots
            ->clone(
                {.snapshot_id = "s", .targets = {{"c", {}}}},
                [](const std::string&, const Result<VmOutcome>&) {}, soon())
            .error()
            .reason() == "NO_MEMORY");
}
