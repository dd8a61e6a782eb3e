// SPDX-License-Identifier: Apache-2.0
#include "daemon/shell_pool.h"

#include "daemon/testing/rig.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

using namespace mayfly;
using namespace mayfly::daemon;
using namespace mayfly::daemon::testing;

namespace {

/// A snapshot of a VM that is no more; its restored guests find `words` on their command line.
void make_snapshot(Rig& rig, const std::string& id, const std::string& words = "") {
  REQUIRE(rig.manager->create(rig.request("origin", words), soon()));
  REQUIRE(rig.snapshots->create({.vm_id = "origin", .snapshot_id = id}, soon()));
  REQUIRE(rig.manager->remove("origin", true, soon()));
}

Result<TemplateOutcome> prepare(Rig& rig, const std::string& id, uint32_t shells,
                                const std::string& snapshot_id = "s") {
  return rig.snapshots->prepare_template(
      {.template_id = id, .snapshot_id = snapshot_id, .shells = shells}, soon());
}

Result<VmOutcome> restore(Rig& rig, const std::string& vm_id, RestoreOverrides overrides = {}) {
  return rig.snapshots->restore(
      {.template_id = "t", .vm_id = vm_id, .overrides = std::move(overrides), .start = true},
      soon());
}

ShellCounts counts(Rig& rig, const std::string& id = "t") {
  const auto view = rig.templates->get(id);
  REQUIRE(view);
  return view->shells.value_or(ShellCounts());
}

bool comes(const std::function<bool()>& condition) {
  for (int i = 0; i < 2000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

std::string phases_of(const VmOutcome& outcome) {
  std::string names;
  for (const Phase& phase : outcome.times.phases) names += phase.name + " ";
  return names;
}

}  // namespace

TEST_CASE("a shell becomes a VM of its own, and another takes its place") {
  Rig rig;
  make_snapshot(rig, "s");
  const auto made = prepare(rig, "t", 2);
  REQUIRE(made);
  REQUIRE(made->made.shells);
  CHECK(made->made.shells->ready == 2);
  CHECK(count_entries(rig.vms_dir()) == 2);
  CHECK(rig.manager->vm_count() == 0);
  const auto one = restore(rig, "one");
  REQUIRE(one);
  CHECK(one->vm.from_shell);
  CHECK(one->vm.template_id == "t");
  CHECK(one->vm.restored_from == "s");
  CHECK(phases_of(*one) == "validate check-host open shell receive devices vcpus reply ");
  CHECK(std::filesystem::exists(rig.vms_dir() + "/one/console"));
  REQUIRE(rig.manager->wait("one", {.states = {}, .guest_ready = true}, soon()));
  const std::string cid = std::to_string(one->vm.spec.guest_cid);
  CHECK(console_of(rig, "one").find("claimed as " + cid + ", 16 bytes") != std::string::npos);
  CHECK(console_of(rig, "one").find("restored with 32 bytes") != std::string::npos);
  CHECK(comes([&] { return counts(rig).ready == 2; }));
  CHECK(counts(rig).claimed == 1);
  CHECK(counts(rig).failed == 0);
  // It ends as any other.
  REQUIRE(rig.manager->remove("one", true, soon()));
  CHECK_FALSE(std::filesystem::exists(rig.vms_dir() + "/one"));
}

TEST_CASE("what a shell cannot have makes a process for that VM alone") {
  Rig rig;
  make_snapshot(rig, "s");
  REQUIRE(prepare(rig, "t", 1));
  const auto large = restore(rig, "large", {.console_kib = 512});
  REQUIRE(large);
  CHECK_FALSE(large->vm.from_shell);
  CHECK(large->vm.template_id == "t");
  CHECK(large->vm.spec.console_kib == 512);
  // What it would have had anyhow is no reason.
  CHECK(restore(rig, "small", {.console_kib = 256})->vm.from_shell);
  CHECK(counts(rig).claimed == 1);
}

TEST_CASE("a burst beyond the shells is served, and they are made again after it") {
  Rig rig;
  make_snapshot(rig, "s");
  REQUIRE(prepare(rig, "t", 4));
  std::set<uint64_t> cids;
  size_t from_shells = 0;
  std::vector<CloneTarget> targets;
  for (int i = 0; i < 12; ++i) targets.push_back({.vm_id = format("c%d", i)});
  REQUIRE(rig.snapshots->clone(
      {.template_id = "t", .targets = targets, .start = true},
      [&](const std::string&, const Result<VmOutcome>& made) {
        REQUIRE(made);
        cids.insert(made->vm.spec.guest_cid);
        from_shells += made->vm.from_shell;
      },
      soon()));
  CHECK(cids.size() == 12);
  CHECK(from_shells >= 4);
  CHECK(counts(rig).claimed == from_shells);
  for (const CloneTarget& target : targets)
    CHECK(rig.manager->wait(target.vm_id, {.states = {}, .guest_ready = true}, soon()));
  CHECK(comes([&] { return counts(rig).ready == 4; }));
}

TEST_CASE("shells that are killed are buried, told of and replaced") {
  Rig rig;
  make_snapshot(rig, "s");
  REQUIRE(prepare(rig, "t", 3));
  EventCursor cursor = rig.events.from_now();
  const std::vector<pid_t> before = children();
  REQUIRE(before.size() == 3);
  for (const pid_t pid : before) ::kill(pid, SIGKILL);
  CHECK(comes([&] { return counts(rig).failed == 3 && counts(rig).ready == 3; }));
  CHECK(counts(rig).last_failure.find("killed by signal 9") != std::string::npos);
  const std::vector<pid_t> after = children();
  CHECK(after.size() == 3);
  for (const pid_t pid : before) CHECK(std::ranges::find(after, pid) == after.end());
  CHECK(count_entries(rig.vms_dir()) == 3);
  for (int i = 0; i < 3; ++i) {
    const auto event = rig.events.next(cursor, soon());
    REQUIRE(event);
    REQUIRE(std::holds_alternative<ShellFailed>(event->what));
    CHECK(std::get<ShellFailed>(event->what).template_id == "t");
  }
  CHECK(restore(rig, "one")->vm.from_shell);
}

TEST_CASE("shells are replaced when it is learnt what their VMs will touch") {
  Rig rig;
  make_snapshot(rig, "s");
  REQUIRE(prepare(rig, "t", 2));
  CHECK(restore(rig, "before")->vm.copied_bytes == 0);
  REQUIRE(comes([&] { return counts(rig).ready == 2; }));
  const std::vector<pid_t> before = children();
  const auto memory = rig.manager->find("before").value()->base();
  REQUIRE(memory);
  const snapshot::WorkingSet touched{
      .memory_bytes = 16 << 20,
      .runs = {{.first_page = 0, .pages = snapshot::kChunkPages, .dirtied = true}}};
  CHECK(rig.templates->learn(memory->memory_digest, touched, 1) == std::vector<std::string>{"t"});
  REQUIRE(comes([&] { return counts(rig).ready == 2 && child_processes() == 3; }));
  const std::vector<pid_t> after = children();
  CHECK(std::ranges::count_if(after, [&](pid_t pid) {
          return std::ranges::find(before, pid) != before.end();
        }) == 1);  // The VM.
  const auto informed = restore(rig, "after");
  REQUIRE(informed);
  CHECK(informed->vm.from_shell);
  CHECK(informed->vm.copied_bytes == 2 << 20);
  CHECK(counts(rig).failed == 0);
  // Another policy is no shell's.
  RestoreOverrides lazy;
  lazy.memory_policy = MemoryPolicy::kLazy;
  CHECK_FALSE(restore(rig, "lazy", lazy)->vm.from_shell);
}

TEST_CASE("shells that cannot be fail their template, and nothing remains") {
  Rig rig;
  make_snapshot(rig, "s", "fake.refuse_park");
  const size_t descriptors = open_descriptors();
  const auto fails = [&](uint32_t shells, const char* reason) {
    CAPTURE(reason);
    const auto made = prepare(rig, "t", shells);
    REQUIRE_FALSE(made);
    CHECK(made.error().reason() == reason);
    CHECK(rig.templates->get("t").error().reason() == "TEMPLATE_NOT_FOUND");
    CHECK(child_processes() == 0);
    CHECK(count_entries(rig.vms_dir()) == 0);
    CHECK(open_descriptors() == descriptors);
  };
  fails(2, "KVM");
  fails(1001, "SHELL_COUNT");
}

TEST_CASE("shells that end as soon as they wait are made anew ever more slowly") {
  Rig rig;
  make_snapshot(rig, "s", "fake.end_parked");
  REQUIRE(prepare(rig, "t", 1));
  std::this_thread::sleep_for(std::chrono::milliseconds(1000));
  // Each lives for 50 ms; 100, 200, 400 ms lie between them.
  CHECK(counts(rig).failed >= 2);
  CHECK(counts(rig).failed <= 5);
}

TEST_CASE("a claim that fails is an error, and leaves nothing") {
  Rig rig;
  for (const auto& [words, reason] : {std::pair("fake.refuse_claim", "DISK_SIZE"),
                                      std::pair("fake.crash_claim", "MONITOR_GONE")}) {
    CAPTURE(words);
    make_snapshot(rig, "s", words);
    REQUIRE(prepare(rig, "t", 1));
    const auto made = restore(rig, "one");
    REQUIRE_FALSE(made);
    CHECK(made.error().reason() == reason);
    CHECK(rig.manager->vm_count() == 0);
    CHECK_FALSE(std::filesystem::exists(rig.vms_dir() + "/one"));
    REQUIRE(rig.templates->remove("t"));
    CHECK(child_processes() == 0);
    CHECK(count_entries(rig.vms_dir()) == 0);
    REQUIRE(rig.snapshots->remove("s"));
  }
}

TEST_CASE("what a VM cannot have is found before a shell is taken") {
  Rig rig;
  make_snapshot(rig, "s");
  REQUIRE(prepare(rig, "t", 1));
  RestoreOverrides disk;
  disk.disks.push_back({.index = 0, .path = rig.path("disk"), .limits = {}});
  CHECK(restore(rig, "one", disk).error().reason() == "DISK_INDEX");
  CHECK(restore(rig, "one", {.guest_cid = 2}).error().reason() == "GUEST_CID");
  CHECK(restore(rig, "../one").error().reason() == "ID_BAD");
  CHECK(counts(rig).ready == 1);
  CHECK(counts(rig).claimed == 0);
}

TEST_CASE("a template is deleted while it is claimed from many threads") {
  Rig rig;
  make_snapshot(rig, "s");
  REQUIRE(prepare(rig, "t", 8));
  std::atomic<int> made = 0;
  {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&, thread] {
        for (int i = 0; i < 8; ++i) {
          const auto outcome = restore(rig, format("v%d", thread * 8 + i));
          if (outcome) ++made;
          if (!outcome) CHECK(outcome.error().reason() == "TEMPLATE_NOT_FOUND");
        }
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    CHECK(rig.templates->remove("t"));
  }
  // Another of its name has nothing of it.
  CHECK(rig.templates->get("t").error().reason() == "TEMPLATE_NOT_FOUND");
  CHECK(rig.manager->vm_count() == static_cast<size_t>(made));
  CHECK(child_processes() == static_cast<size_t>(made));
  CHECK(count_entries(rig.vms_dir()) == static_cast<size_t>(made));
}

TEST_CASE("a pool that is stopped leaves nothing, whatever it was about to do") {
  Rig rig;
  make_snapshot(rig, "s");
  REQUIRE(prepare(rig, "t", 3));
  std::jthread late([&] {
    const auto made = prepare(rig, "u", 100);
    CHECK_FALSE(made);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  rig.shells->stop();
  late.join();
  CHECK(child_processes() == 0);
  CHECK(count_entries(rig.vms_dir()) == 0);
  CHECK(prepare(rig, "w", 1).error().reason() == "DAEMON_STOPPING");
}
