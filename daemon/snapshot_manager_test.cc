// SPDX-License-Identifier: Apache-2.0
#include "daemon/snapshot_manager.h"

#include "daemon/testing/rig.h"

#include <doctest/doctest.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <thread>

using namespace mayfly;
using namespace mayfly::daemon;
using namespace mayfly::daemon::testing;

namespace {

void make(Rig& rig, const std::string& vm_id, const std::string& words = "") {
  REQUIRE(rig.manager->create(rig.request(vm_id, words), soon()));
  REQUIRE(rig.manager->wait(vm_id, {.states = {}, .guest_ready = true}, soon()));
}

Result<SnapshotOutcome> save(Rig& rig, const std::string& vm_id, const std::string& id,
                             bool is_diff = false) {
  return rig.snapshots->create({.vm_id = vm_id, .snapshot_id = id, .is_diff = is_diff}, soon());
}

Result<VmOutcome> restore(Rig& rig, const std::string& id, const std::string& vm_id) {
  return rig.snapshots->restore({.snapshot_id = id, .vm_id = vm_id, .start = true}, soon());
}

}  // namespace

TEST_CASE("a restored guest is ready when it has reseeded itself, and not before") {
  Rig rig;
  make(rig, "a");
  REQUIRE(save(rig, "a", "s"));
  const auto restored = restore(rig, "s", "b");
  REQUIRE(restored);
  CHECK(restored->vm.restored_from == "s");
  CHECK(restored->vm.spec.guest_cid != rig.manager->get("a")->spec.guest_cid);
  CHECK(rig.manager->wait("b", {.states = {}, .guest_ready = true}, soon()));
  CHECK(console_of(rig, "b").find("restored with 32 bytes") != std::string::npos);
  make(rig, "mute", "fake.no_reseed");
  REQUIRE(save(rig, "mute", "t"));
  REQUIRE(restore(rig, "t", "c"));
  const auto waited = rig.manager->wait("c", {.states = {}, .guest_ready = true},
                                        Call::within(std::chrono::milliseconds(300)));
  REQUIRE_FALSE(waited);
  CHECK(waited.error().code() == Code::kDeadlineExceeded);
}

TEST_CASE("a VM is as it was after each way in which its monitor can fail to save it") {
  Rig rig;
  const auto fails = [&](const char* words, const char* reason, bool has_base) {
    CAPTURE(words);
    make(rig, "a", words);
    if (has_base) REQUIRE(save(rig, "a", "base"));
    const size_t descriptors = open_descriptors();
    const auto saved = save(rig, "a", "s", has_base);
    REQUIRE_FALSE(saved);
    INFO(saved.error().message());
    CHECK(saved.error().reason() == reason);
    CHECK(rig.manager->get("a")->state == VmState::kRunning);
    CHECK(rig.snapshots->get("s").error().code() == Code::kNotFound);
    CHECK(count_entries(rig.store_dir()) == (has_base ? 1 : 0));
    CHECK(open_descriptors() <= descriptors + (has_base ? 0 : 1));  // The store's own.
    // Nor does it succeed the next time.
    CHECK(save(rig, "a", "s", has_base).error().reason() == reason);
    REQUIRE(rig.manager->remove("a", true, soon()));
  };
  fails("fake.save=error", "KVM", false);
  fails("fake.save=bad_state", "SAVED_STATE", false);
  fails("fake.save=leave", "MEMORY_IN_USE", false);
  fails("fake.save=bad_layer", "SAVED_LAYER", true);
}

TEST_CASE("a diff holds what changed, and is applied over what it stands on") {
  Rig rig;
  make(rig, "a");
  REQUIRE(save(rig, "a", "full"));
  const auto diff = save(rig, "a", "diff", true);
  REQUIRE(diff);
  REQUIRE(diff->snapshot.manifest->parent);
  CHECK(diff->snapshot.manifest->parent->id == "full");
  CHECK(rig.snapshots->verify("diff")->verified_ids == std::vector<std::string>{"diff", "full"});
  REQUIRE(restore(rig, "diff", "b"));
  // What is restored from the diff may be the base of another.
  REQUIRE(save(rig, "b", "next", true));
  CHECK(rig.snapshots->get("next")->manifest->parent->id == "diff");
  CHECK(rig.snapshots->remove("full").error().reason() == "HAS_DIFFS");
  CHECK(rig.snapshots->remove("next"));
  CHECK(rig.snapshots->remove("diff"));
  CHECK(rig.snapshots->remove("full"));
}

TEST_CASE("a failed restore leaves no process, directory, descriptor or id") {
  Rig rig;
  make(rig, "a");
  REQUIRE(save(rig, "a", "s"));
  make(rig, "refused", "fake.refuse_restore");
  REQUIRE(save(rig, "refused", "r"));
  REQUIRE(rig.manager->remove("a", true, soon()));
  REQUIRE(rig.manager->remove("refused", true, soon()));
  const size_t descriptors = open_descriptors();
  const auto fails = [&](const char* reason, RestoreVmPlan plan) {
    CAPTURE(reason);
    plan.vm_id = std::string("b");
    const auto result = rig.snapshots->restore(plan, soon());
    REQUIRE_FALSE(result);
    INFO(result.error().message());
    CHECK(result.error().reason() == reason);
    CHECK(open_descriptors() == descriptors);
    CHECK(count_entries(rig.vms_dir()) == 0);
    CHECK(child_processes() == 0);
    CHECK(rig.manager->vm_count() == 0);
  };
  fails("SNAPSHOT_NOT_FOUND", {.snapshot_id = "none"});
  // The fake maps nothing, and says that it has.
  fails("MONITOR_REPLY", {.snapshot_id = "s", .lazy_memory = true});
  fails("MONITOR_REPLY", {.snapshot_id = "s", .memory_handler = "/none"});
  fails("SOCKET_PATH", {.snapshot_id = "s", .memory_handler = "none"});
  fails("MEMORY_SOURCE", {.snapshot_id = "s", .lazy_memory = true, .memory_handler = "/none"});
  fails("ID_BAD", {.snapshot_id = "../s"});
  fails("STATE_KIND", {.snapshot_id = "r"});
  RestoreVmPlan disk{.snapshot_id = "s"};
  disk.overrides.disks.push_back({.index = 0, .path = rig.path("disk"), .limits = {}});
  fails("DISK_INDEX", disk);
  std::filesystem::resize_file(rig.store_dir() + "/s/state", 100);
  fails("PART_SIZE", {.snapshot_id = "s"});
}

TEST_CASE("clones of a live VM are told apart, and one that fails harms no other") {
  Rig rig;
  make(rig, "a");
  std::map<std::string, std::string> made;
  const auto cloned = rig.snapshots->clone(
      {.source_vm_id = "a",
       .targets = {{"b", {}}, {"a", {}}, {"c", {}}, {"d", {.guest_cid = 2}}},
       .start = true},
      [&](const std::string& id, const Result<VmOutcome>& outcome) {
        made[id] = outcome ? state_name(outcome->vm.state) : outcome.error().reason();
      },
      soon());
  REQUIRE(cloned);
  CHECK(made == std::map<std::string, std::string>{
                    {"b", "RUNNING"}, {"a", "VM_EXISTS"}, {"c", "RUNNING"}, {"d", "GUEST_CID"}});
  CHECK_FALSE(std::filesystem::exists(rig.store_dir()));
  for (const char* id : {"b", "c"})
    CHECK(rig.manager->wait(id, {.states = {}, .guest_ready = true}, soon()));
  CHECK(rig.manager->get("a")->state == VmState::kRunning);
}

TEST_CASE("a saved VM that was paused stays so, and one that shall stay paused is") {
  Rig rig;
  make(rig, "a");
  REQUIRE(rig.manager->pause("a", soon()));
  CHECK(save(rig, "a", "s")->vm.state == VmState::kPaused);
  REQUIRE(rig.manager->resume("a", soon()));
  const auto saved =
      rig.snapshots->create({.vm_id = "a", .snapshot_id = "t", .stay_paused = true}, soon());
  REQUIRE(saved);
  CHECK(saved->vm.state == VmState::kPaused);
  CHECK(rig.manager->resume("a", soon()));
}

TEST_CASE("a restore that waits for its guest's word answers with a VM that has reseeded itself") {
  Rig rig;
  make(rig, "a");
  REQUIRE(save(rig, "a", "s"));
  const RestoreVmPlan plan{.snapshot_id = "s",
                           .vm_id = "b",
                           .start = true,
                           .request_id = "r",
                           .reseed = {.wanted = true}};
  const auto restored = rig.snapshots->restore(plan, soon());
  REQUIRE(restored);
  CHECK(restored->vm.reseeded);
  CHECK(restored->times.phases.back().name == "reseed");
  CHECK(rig.snapshots->restore(plan, soon())->vm.incarnation == restored->vm.incarnation);
  CHECK_FALSE(rig.manager->get("a")->reseeded);
  bool made = false;
  REQUIRE(rig.snapshots->clone(
      {.source_vm_id = "a", .targets = {{"c", {}}}, .start = true, .reseed = {.wanted = true}},
      [&](const std::string&, const Result<VmOutcome>& outcome) {
        made = outcome && outcome->vm.reseeded;
      },
      soon()));
  CHECK(made);
}

TEST_CASE("a restored guest that does not reseed itself is ended, and nothing of it is left") {
  Rig rig;
  const auto fails = [&](const char* words, ReseedWait wait, const Call& call, const char* reason) {
    CAPTURE(words);
    CAPTURE(reason);
    make(rig, "a", words);
    REQUIRE(save(rig, "a", words + 5));
    REQUIRE(rig.manager->remove("a", true, soon()));
    const size_t descriptors = open_descriptors();
    const auto restored = rig.snapshots->restore(
        {.snapshot_id = words + 5, .vm_id = "b", .start = true, .reseed = wait}, call);
    REQUIRE_FALSE(restored);
    INFO(restored.error().message());
    CHECK(restored.error().reason() == reason);
    CHECK(open_descriptors() == descriptors);
    CHECK(count_entries(rig.vms_dir()) == 0);
    CHECK(child_processes() == 0);
    CHECK(rig.manager->vm_count() == 0);
    REQUIRE(rig.snapshots->remove(words + 5));
  };
  const ReseedWait briefly{.wanted = true, .timeout_ms = 200};
  fails("fake.reseed_failure", {.wanted = true}, soon(), "RESEED_FAILED");
  fails("fake.no_reseed", briefly, soon(), "RESEED_TIMEOUT");
  fails("fake.no_reseed", {.wanted = true}, Call::within(std::chrono::milliseconds(700)),
        "RESEED_TIMEOUT");
  std::atomic<bool> gone = false;
  Call client = soon();
  client.is_cancelled = [&] { return gone.load(); };
  std::jthread leaver([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    gone = true;
  });
  fails("fake.no_reseed", {.wanted = true}, client, "CANCELLED");
}

TEST_CASE("waiting for a guest's word that cannot come is refused at once") {
  Rig rig;
  make(rig, "a");
  REQUIRE(save(rig, "a", "s"));
  const auto refusal = [&](const char* id, bool start, ReseedWait wait) {
    const auto restored = rig.snapshots->restore(
        {.snapshot_id = id, .vm_id = "b", .start = start, .reseed = wait}, soon());
    REQUIRE_FALSE(restored);
    CHECK(rig.manager->vm_count() >= 1);
    CHECK_FALSE(rig.manager->get("b"));
    return std::string(restored.error().reason());
  };
  CHECK(refusal("s", false, {.wanted = true}) == "WAIT_RESEEDED");
  CHECK(refusal("s", true, {.timeout_ms = 1000}) == "WAIT_RESEEDED");
  CHECK(refusal("s", true, {.wanted = true, .timeout_ms = 0}) == "WAIT_RESEEDED");
  CHECK(refusal("s", true, {.wanted = true, .timeout_ms = 600'001}) == "WAIT_RESEEDED");
  auto mute = rig.request("mute");
  mute.spec.agent = false;
  REQUIRE(rig.manager->create(mute, soon()));
  REQUIRE(save(rig, "mute", "t"));
  CHECK(refusal("t", true, {.wanted = true}) == "NO_AGENT");
}

TEST_CASE("a snapshot that this host cannot go on from is refused before a process exists") {
  Rig rig;
  make(rig, "a");
  REQUIRE(save(rig, "a", "s"));
  REQUIRE(rig.manager->remove("a", true, soon()));
  rig.host.cpu_vendor = "AnotherMaker";
  const auto restored = restore(rig, "s", "b");
  REQUIRE_FALSE(restored);
  CHECK(restored.error().code() == Code::kFailedPrecondition);
  CHECK(restored.error().reason() == "CPU_VENDOR");
  CHECK(child_processes() == 0);
  CHECK(rig.manager->vm_count() == 0);
}
