// SPDX-License-Identifier: Apache-2.0
#include "jailer/jail_spec.h"

#include <doctest/doctest.h>

#include <string>

namespace mayfly::jailer {
namespace {

std::string reason(std::vector<const char*> arguments) {
  const auto spec = parse_arguments(arguments);
  return spec ? "" : spec.error().reason();
}

std::string root_reason(const char* uid, const char* gid) {
  return reason({"--mode=root", uid, gid, "--exec-fd=5", "--", "vmm"});
}

TEST_CASE("arguments are checked one by one") {
  CHECK_EQ(reason({"--exec-fd=5", "--keep-fd=3", "--", "vmm", "--control-fd=3"}), "");
  CHECK_EQ(reason({"--", "vmm"}), "NO_PROGRAM");
  CHECK_EQ(reason({"--exec-fd=5"}), "NO_ARGUMENTS");
  CHECK_EQ(reason({"--exec-fd=5", "--"}), "NO_ARGUMENTS");
  CHECK_EQ(reason({"--exec-fd=2", "--", "vmm"}), "DESCRIPTOR");
  CHECK_EQ(reason({"--exec-fd=", "--", "vmm"}), "DESCRIPTOR");
  CHECK_EQ(reason({"--exec-fd=5x", "--", "vmm"}), "DESCRIPTOR");
  CHECK_EQ(reason({"--keep-fd=99999999999", "--", "vmm"}), "DESCRIPTOR");
  CHECK_EQ(reason({"--cgroup-procs-fd=-4", "--", "vmm"}), "DESCRIPTOR");
  CHECK_EQ(reason({"--chroot=/", "--", "vmm"}), "UNKNOWN_OPTION");
  CHECK_EQ(reason({"--exec-fd", "--", "vmm"}), "UNKNOWN_OPTION");
  CHECK_EQ(reason({"--mode=on", "--exec-fd=5", "--", "vmm"}), "MODE");
}

TEST_CASE("a bound on files is a number of bytes") {
  CHECK_EQ(reason({"--max-file-bytes=0", "--exec-fd=5", "--", "vmm"}), "");
  CHECK_EQ(reason({"--max-file-bytes=18446744073709551615", "--exec-fd=5", "--", "vmm"}), "");
  for (const char* bad : {"--max-file-bytes=", "--max-file-bytes=-1", "--max-file-bytes=1k",
                          "--max-file-bytes=18446744073709551616"}) {
    CAPTURE(bad);
    CHECK_EQ(reason({bad, "--exec-fd=5", "--", "vmm"}), "BYTES");
  }
}

TEST_CASE("the numbers of descriptors are bounded") {
  std::vector<const char*> kept(kMaxKept + 1, "--keep-fd=3");
  kept.insert(kept.end(), {"--exec-fd=5", "--", "vmm"});
  CHECK_EQ(reason(kept), "TOO_MANY");
  std::vector<const char*> groups(kMaxCgroupProcs + 1, "--cgroup-procs-fd=3");
  groups.insert(groups.end(), {"--exec-fd=5", "--", "vmm"});
  CHECK_EQ(reason(groups), "TOO_MANY");
}

TEST_CASE("a jail in root mode never has the ids of root, or none") {
  CHECK_EQ(root_reason("--uid=900000", "--gid=900000"), "");
  CHECK_EQ(root_reason("--uid=1", "--gid=4294967294"), "");
  for (const char* bad : {"--uid=0", "--uid=4294967295", "--uid=4294967296", "--uid=-1",
                          "--uid=", "--uid=1x", "--uid=18446744073709551617"}) {
    CAPTURE(bad);
    CHECK_EQ(root_reason(bad, "--gid=900000"), "ID");
  }
  CHECK_EQ(root_reason("--uid=900000", "--gid=0"), "ID");
  CHECK_EQ(reason({"--mode=root", "--uid=5", "--exec-fd=5", "--", "vmm"}), "ID");
  CHECK_EQ(reason({"--mode=user", "--uid=0", "--gid=0", "--exec-fd=5", "--", "vmm"}), "");
}

TEST_CASE("shared namespaces are for root mode") {
  CHECK_EQ(reason({"--mode=user", "--mount-namespace-fd=6", "--exec-fd=5", "--", "vmm"}),
           "NAMESPACES");
  CHECK_EQ(reason({"--network-namespace-fd=6", "--exec-fd=5", "--", "vmm"}), "NAMESPACES");
}

TEST_CASE("a program outside of a jail finds its directory of /proc by itself") {
  CHECK_EQ(reason({"--mode=off", "--proc-self-fd=4", "--exec-fd=5", "--", "vmm"}), "PROC_SELF");
  CHECK_EQ(reason({"--mode=user", "--proc-self-fd=4", "--exec-fd=5", "--", "vmm"}), "");
  CHECK_EQ(reason({"--mode=user", "--proc-self-fd=2", "--exec-fd=5", "--", "vmm"}), "DESCRIPTOR");
}

TEST_CASE("what launch() writes is what the jailer reads") {
  JailSpec spec;
  spec.mode = JailMode::kRoot;
  spec.exec_fd = 5;
  spec.kept = {3, 4};
  spec.proc_self = 10;
  spec.uid = 900001;
  spec.gid = 900002;
  spec.cgroup_procs = {6, 7};
  spec.mount_namespace = 8;
  spec.network_namespace = 9;
  spec.arguments = {"vmm", "--mode=off", "--"};
  const std::vector<std::string> text = format_arguments(spec);
  std::vector<const char*> arguments;
  for (const std::string& each : text) arguments.push_back(each.c_str());
  const auto read = parse_arguments(arguments);
  REQUIRE(read.has_value());
  CHECK_EQ(static_cast<int>(read->mode), static_cast<int>(spec.mode));
  CHECK_EQ(read->exec_fd, spec.exec_fd);
  CHECK_EQ(read->kept, spec.kept);
  CHECK_EQ(read->proc_self, spec.proc_self);
  CHECK_EQ(read->uid, spec.uid);
  CHECK_EQ(read->gid, spec.gid);
  CHECK_EQ(read->cgroup_procs, spec.cgroup_procs);
  CHECK_EQ(read->mount_namespace, spec.mount_namespace);
  CHECK_EQ(read->network_namespace, spec.network_namespace);
  CHECK_EQ(read->arguments, spec.arguments);
}

}  // namespace
}  // namespace mayfly::jailer
