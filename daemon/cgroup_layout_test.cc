// SPDX-License-Identifier: Apache-2.0
#include "daemon/cgroup_layout.h"

#include <doctest/doctest.h>

#include <fstream>
#include <vector>

#include <unistd.h>

using namespace mayfly::daemon;

namespace {

constexpr const char* kPureV2 =
    "25 20 0:22 / /sys rw,nosuid - sysfs sysfs rw\n"
    "30 25 0:26 / /sys/fs/cgroup rw,nosuid,nodev shared:9 - cgroup2 cgroup2 "
    "rw,nsdelegate,favordynmods\n";

constexpr const char* kHybrid =
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:4 master:2 - cgroup cgroup "
    "rw,cpu,cpuacct\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
    "38 31 0:35 /box /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio\n"
    "39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids\n"
    "40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

}  // namespace

TEST_CASE("a pure version 2 host has one tree") {
  const CgroupLayout layout = parse_cgroup_layout(kPureV2, "0::/system.slice/mayflyd.service\n");
  CHECK(layout.unified.version == 2);
  CHECK(layout.unified.own_dir() == "/sys/fs/cgroup/system.slice/mayflyd.service");
  CHECK(layout.unified.favors_dynamic_mods);
  for (const Controller controller : kControllers) CHECK(layout.v1_of(controller).version == 0);
}

TEST_CASE("a host with both has a place in each hierarchy, seen from its mount") {
  const CgroupLayout layout =
      parse_cgroup_layout(kHybrid,
                          "9:name=systemd:/\n7:blkio:/box/a\n8:pids:/elsewhere\n4:memory:/m/"
                          "n\n2:cpu,cpuacct:/\n0::/\n");
  CHECK(layout.unified.own_dir() == "/sys/fs/cgroup/unified");
  CHECK_FALSE(layout.unified.favors_dynamic_mods);
  CHECK(layout.v1_of(Controller::kCpu).own_dir() == "/sys/fs/cgroup/cpu,cpuacct");
  CHECK(layout.v1_of(Controller::kMemory).own_dir() == "/sys/fs/cgroup/memory/m/n");
  CHECK(layout.v1_of(Controller::kIo).own_dir() == "/sys/fs/cgroup/blkio/a");
  CHECK(layout.v1_of(Controller::kPids).own == "/elsewhere");
}

TEST_CASE("a tree in which we are not to be seen is none") {
  CHECK(parse_cgroup_layout(kPureV2, "0::/../other\n").unified.version == 0);
  const CgroupLayout layout = parse_cgroup_layout(kHybrid, "7:blkio:/boxes/a\n4:memory:/..\n");
  CHECK(layout.v1_of(Controller::kIo).version == 0);
  CHECK(layout.v1_of(Controller::kMemory).version == 0);
  CHECK(layout.unified.version == 0);
}

TEST_CASE("text that is no such file gives nothing") {
  for (const char* text :
       {"", "\n\n", "a b c - cgroup2\n", "1 2 3 4 5 6 - cgroup2 x\n", "::::\n", "0:"}) {
    CAPTURE(text);
    CHECK(parse_cgroup_layout(text, text).unified.version == 0);
    CHECK(parse_cgroup_layout(kPureV2, text).unified.version == 0);
  }
}

TEST_CASE("this process is in the groups that it finds") {
  const CgroupLayout layout = read_cgroup_layout();
  std::vector<CgroupTree> trees(layout.v1.begin(), layout.v1.end());
  trees.push_back(layout.unified);
  for (const CgroupTree& tree : trees) {
    if (tree.version == 0) continue;
    CAPTURE(tree.own_dir());
    std::ifstream procs(tree.own_dir() + "/cgroup.procs");
    bool found = false;
    for (pid_t pid = 0; procs >> pid;) found = found || pid == ::getpid();
    CHECK(found);
  }
}
