// SPDX-License-Identifier: Apache-2.0
// On this machine's own cgroups, below a group that the test makes and removes; skipped, and said
// so, where it may not.
#include "daemon/cgroup.h"

#include <doctest/doctest.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>

#include <sys/wait.h>
#include <unistd.h>

using namespace mayfly;
using namespace mayfly::daemon;

namespace {

std::string parent_path() { return "/mayfly-cgroup-test-" + std::to_string(::getpid()); }

std::unique_ptr<CgroupParent> open_parent(const std::string& tag = "tag") {
  auto parent = CgroupParent::open(read_cgroup_layout(), parent_path(), tag);
  REQUIRE(parent);
  return *std::move(parent);
}

/// Whether this host lets us limit memory and threads at all.
bool usable(const CgroupParent& parent) {
  if (parent.version(Controller::kMemory) != 0 && parent.version(Controller::kPids) != 0)
    return true;
  MESSAGE("skipped: no cgroups for us here: ", parent.problem(Controller::kMemory),
          parent.problem(Controller::kPids));
  return false;
}

std::string read(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string file_of(const CgroupParent& parent, Controller controller, const std::string& group,
                    const char* v2, const char* v1) {
  return parent.dir(controller) + "/" + group + "/" + (parent.version(controller) == 2 ? v2 : v1);
}

GroupLimits defaults() {
  return {.asked = {}, .default_memory_mib = 96, .default_pids = 65, .devices = {}};
}

size_t groups_below(const CgroupParent& parent, Controller controller) {
  size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(parent.dir(controller)))
    count += entry.is_directory();
  return count;
}

/// A child that waits to be killed, in the group.
pid_t spawn_into(const VmCgroup& group) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    for (const std::string& path : group.paths()) std::ofstream(path + "/cgroup.procs") << "0";
    ::pause();
    ::_exit(0);
  }
  return child;
}

void wait_until_inside(const VmCgroup& group, pid_t child) {
  for (const std::string& path : group.paths()) {
    for (int i = 0; i < 1000 && read(path + "/cgroup.procs") != std::to_string(child); ++i)
      ::usleep(5000);
    REQUIRE(read(path + "/cgroup.procs") == std::to_string(child));
  }
}

}  // namespace

TEST_CASE("limits are in the kernel's files as they were asked for") {
  const auto parent = open_parent();
  if (!usable(*parent)) return;
  GroupLimits limits = defaults();
  limits.asked.memory_mib = 200;
  limits.asked.pids_max = 77;
  const bool cpu = parent->version(Controller::kCpu) != 0;
  if (cpu) {
    limits.asked.cpu_milli = 1500;
    limits.asked.cpu_weight = 250;
  }
  const auto group = parent->create("a", limits);
  REQUIRE(group);
  CHECK(read(file_of(*parent, Controller::kMemory, "tag-a", "memory.max",
                     "memory.limit_in_bytes")) == "209715200");
  CHECK(read(file_of(*parent, Controller::kPids, "tag-a", "pids.max", "pids.max")) == "77");
  if (!cpu) return;
  const bool v2 = parent->version(Controller::kCpu) == 2;
  CHECK(read(file_of(*parent, Controller::kCpu, "tag-a", "cpu.max", "cpu.cfs_quota_us")) ==
        (v2 ? "150000 100000" : "150000"));
  CHECK(read(file_of(*parent, Controller::kCpu, "tag-a", "cpu.weight", "cpu.shares")) ==
        (v2 ? "250" : "2560"));
}

TEST_CASE("defaults hold where nothing was asked for") {
  const auto parent = open_parent();
  if (!usable(*parent)) return;
  const auto group = parent->create("a", defaults());
  REQUIRE(group);
  CHECK((*group)->limits().memory_mib == 96);
  CHECK((*group)->limits().pids_max == 65);
  CHECK_FALSE((*group)->limits().cpu_milli);
  CHECK(read(file_of(*parent, Controller::kPids, "tag-a", "pids.max", "pids.max")) == "65");
  CHECK_FALSE((*group)->killed_for_memory());
}

TEST_CASE("a group is removed with its VM, the parent with its last group") {
  std::vector<std::string> paths;
  {
    const auto parent = open_parent();
    if (!usable(*parent)) return;
    auto group = *parent->create("a", defaults());
    paths = group->paths();
    CHECK(group->try_remove());
    for (const std::string& path : paths) CHECK_FALSE(std::filesystem::exists(path));
    // Also one that still holds a process.
    group = *parent->create("b", defaults());
    const pid_t child = spawn_into(*group);
    wait_until_inside(*group, child);
    CHECK_FALSE(group->try_remove());
    group.reset();
    int status = 0;
    CHECK(::waitpid(child, &status, 0) == child);
    CHECK(WTERMSIG(status) == SIGKILL);
    CHECK(groups_below(*parent, Controller::kMemory) == 0);
  }
  for (const std::string& path : paths)
    CHECK_FALSE(std::filesystem::exists(std::filesystem::path(path).parent_path()));
}

TEST_CASE("a value that the kernel refuses is named, and nothing is left") {
  const auto parent = open_parent();
  if (!usable(*parent)) return;
  if (parent->version(Controller::kIo) == 0) {
    MESSAGE("skipped: no io controller for us here: ", parent->problem(Controller::kIo));
    return;
  }
  GroupLimits limits = defaults();
  limits.devices = {{.major = 4095, .minor = 7, .limits = {.read_bytes_per_s = 1 << 20}}};
  const auto group = parent->create("a", limits);
  REQUIRE_FALSE(group);
  INFO(group.error().message());
  CHECK(group.error().code() == Code::kFailedPrecondition);
  CHECK(group.error().reason() == "CGROUP_VALUE");
  CHECK(group.error().os_errno() != 0);
  CHECK(group.error().message().find("4095:7") != std::string::npos);
  CHECK(group.error().message().find(parent->dir(Controller::kIo)) != std::string::npos);
  CHECK(groups_below(*parent, Controller::kMemory) == 0);
  CHECK(groups_below(*parent, Controller::kIo) == 0);
}

TEST_CASE("what a killed daemon left is ended and removed, and no other daemon's") {
  const auto other = open_parent("other");
  if (!usable(*other)) return;
  const auto others = *other->create("b", defaults());
  // Its owner is "killed": nothing of it runs when the next one opens.
  auto killed = open_parent("tag");
  VmCgroup* const orphan = killed->create("a", defaults())->release();
  const pid_t child = spawn_into(*orphan);
  wait_until_inside(*orphan, child);
  const auto next = open_parent("tag");
  int status = 0;
  CHECK(::waitpid(child, &status, 0) == child);
  CHECK(WTERMSIG(status) == SIGKILL);
  CHECK(groups_below(*next, Controller::kMemory) == 1);
  CHECK(std::filesystem::exists(others->paths()[0]));
  delete orphan;
}

TEST_CASE("the same id twice is refused and harms nobody") {
  const auto parent = open_parent();
  if (!usable(*parent)) return;
  const auto first = parent->create("a", defaults());
  REQUIRE(first);
  const auto second = parent->create("a", defaults());
  REQUIRE_FALSE(second);
  CHECK(second.error().os_errno() == EEXIST);
  CHECK(std::filesystem::exists((*first)->paths()[0]));
}

TEST_CASE("a parent that another daemon has taken away is made again") {
  const auto parent = open_parent();
  if (!usable(*parent)) return;
  for (const Controller controller : kControllers) {
    if (parent->version(controller) != 0) ::rmdir(parent->dir(controller).c_str());
  }
  CHECK(parent->create("a", defaults()));
}

TEST_CASE("a host without cgroups refuses what is asked for, naming the controller") {
  const auto parent = CgroupParent::open({}, "", "tag");
  REQUIRE(parent);
  const auto group = (*parent)->create("a", defaults());
  REQUIRE(group);
  CHECK((*group)->paths().empty());
  CHECK_FALSE((*group)->limits().memory_mib);
  CHECK_FALSE((*(*parent)->create("b", defaults()))->directory().valid());
  struct Case {
    const char* controller;
    GroupLimits limits;
  };
  const Case cases[] = {
      {"cpu", {.asked = {.cpu_milli = 100}}},
      {"cpu", {.asked = {.cpu_weight = 1}}},
      {"memory", {.asked = {.memory_mib = 100}}},
      {"pids", {.asked = {.pids_max = 100}}},
      {"io", {.asked = {}, .devices = {{.major = 8, .minor = 0, .limits = {.read_ops_per_s = 1}}}}},
  };
  for (const Case& each : cases) {
    CAPTURE(each.controller);
    const auto refused = (*parent)->create("a", each.limits);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code() == Code::kFailedPrecondition);
    CHECK(refused.error().reason() == "NO_CONTROLLER");
    CHECK(refused.error().message().find(std::string(" ") + each.controller + " controller") !=
          std::string::npos);
  }
}

TEST_CASE("a parent is an absolute path without ways up") {
  for (const char* path : {"mayfly", "/", "/a/", "/a/../b", "/..", "../x"}) {
    CAPTURE(path);
    const auto parent = CgroupParent::open({}, path, "tag");
    REQUIRE_FALSE(parent);
    CHECK(parent.error().reason() == "CGROUP_PARENT");
  }
}
