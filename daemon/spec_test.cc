// SPDX-License-Identifier: Apache-2.0
#include "daemon/spec.h"

#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>

#include <sys/stat.h>
#include <unistd.h>

using namespace mayfly;
using namespace mayfly::daemon;

namespace {

constexpr uint64_t kHostMib = 4096;

VmSpec good() {
  VmSpec spec;
  spec.kernel_path = "/k";
  spec.rootfs = DiskSpec{.path = "/r", .read_only = false, .serial = ""};
  return spec;
}

struct Refusal {
  const char* reason;
  // Must be in the message: the field, and the value or limit.
  const char* field;
  const char* number;
  std::function<void(VmSpec&)> spoil;
};

/// A directory of this test's own, removed at its end.
struct Scratch {
  std::filesystem::path path;
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "spec_test.XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~Scratch() { std::filesystem::remove_all(path); }
  std::string file(const char* name, size_t bytes) const {
    std::ofstream(path / name) << std::string(bytes, 'x');
    return path / name;
  }
};

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a spec with defaults is accepted") { CHECK(validate(good(), kHostMib)); }

TEST_CASE("what is out of bounds is refused, naming field, value and limit") {
  const Refusal refusals[] = {
      {"VCPU_COUNT", "vcpus", "0", [](VmSpec& s) { s.vcpus = 0; }},
      {"VCPU_COUNT", "vcpus: 33", "32", [](VmSpec& s) { s.vcpus = 33; }},
      {"MEMORY_SIZE", "memory_mib: 0", "16", [](VmSpec& s) { s.memory_mib = 0; }},
      {"MEMORY_SIZE", "memory_mib: 1 ", "16", [](VmSpec& s) { s.memory_mib = 1; }},
      {"MEMORY_SIZE", "memory_mib: 4097", "4096", [](VmSpec& s) { s.memory_mib = 4097; }},
      {"MEMORY_SIZE", "memory_mib", "4096", [](VmSpec& s) { s.memory_mib = UINT64_MAX; }},
      {"PATH_MISSING", "kernel_path", "", [](VmSpec& s) { s.kernel_path = ""; }},
      {"PATH_NOT_ABSOLUTE", "kernel_path", "vmlinux", [](VmSpec& s) { s.kernel_path = "vmlinux"; }},
      {"PATH_BAD", "kernel_path", "", [](VmSpec& s) { s.kernel_path = std::string("/a\0b", 4); }},
      {"PATH_TOO_LONG", "kernel_path", "4095",
       [](VmSpec& s) { s.kernel_path = "/" + std::string(5000, 'a'); }},
      {"INITRD_COUNT", "initrd_paths: 4", "3", [](VmSpec& s) { s.initrd_paths.assign(4, "/i"); }},
      {"DISK_COUNT", "disks: 9", "8", [](VmSpec& s) { s.disks.assign(8, *s.rootfs); }},
      {"PATH_MISSING", "disks[0].path", "", [](VmSpec& s) { s.disks.resize(1); }},
      {"DISK_SERIAL", "rootfs.serial: 21", "20",
       [](VmSpec& s) { s.rootfs->serial = std::string(21, 's'); }},
      {"DISK_SERIAL", "rootfs.serial", "0x0a", [](VmSpec& s) { s.rootfs->serial = "a\n"; }},
      {"CONSOLE_SIZE", "console_kib: 100", "16384", [](VmSpec& s) { s.console_kib = 100; }},
      {"CONSOLE_SIZE", "console_kib: 2 ", "4", [](VmSpec& s) { s.console_kib = 2; }},
      {"CMDLINE_TOO_LONG", "cmdline: 2048", "2047",
       [](VmSpec& s) { s.cmdline = std::string(2048, 'c'); }},
      {"CMDLINE_TOO_LONG", "cmdline: 2048", "2047",
       [](VmSpec& s) { s.cmdline = std::string(2048, 'c'), s.replace_cmdline = true; }},
      {"CMDLINE_BAD", "cmdline", "0x0a", [](VmSpec& s) { s.cmdline = "a\nb"; }},
      {"RESOURCE_LIMIT", "limits.cpu_milli: 9 ", "10", [](VmSpec& s) { s.limits.cpu_milli = 9; }},
      {"RESOURCE_LIMIT", "limits.cpu_milli: 1024001", "1024000",
       [](VmSpec& s) { s.limits.cpu_milli = 1'024'001; }},
      {"RESOURCE_LIMIT", "limits.cpu_weight: 0", "10000",
       [](VmSpec& s) { s.limits.cpu_weight = 0; }},
      {"RESOURCE_LIMIT", "limits.cpu_weight: 10001", "10000",
       [](VmSpec& s) { s.limits.cpu_weight = 10'001; }},
      // 64 MiB, 1 for the guest's 128, 1 for the console.
      {"RESOURCE_LIMIT", "limits.memory_mib: 193 ", "194",
       [](VmSpec& s) { s.limits.memory_mib = 193; }},
      {"RESOURCE_LIMIT", "limits.memory_mib", "8589934592",
       [](VmSpec& s) { s.limits.memory_mib = UINT64_MAX; }},
      {"RESOURCE_LIMIT", "limits.pids_max: 8 ", "9", [](VmSpec& s) { s.limits.pids_max = 8; }},
      {"RESOURCE_LIMIT", "limits.pids_max: 4194305", "4194304",
       [](VmSpec& s) { s.limits.pids_max = 4'194'305; }},
      {"BALLOON_TARGET", "balloon.target_mib: 129 ", "128",
       [](VmSpec& s) { s.balloon = BalloonSpec{.target_mib = 129, .options = {}}; }},
      {"BALLOON_STATS", "balloon.stats_interval_s: 86401 ", "86400",
       [](VmSpec& s) {
         s.balloon = BalloonSpec{.target_mib = 128, .options = {.stats_interval_s = 86'401}};
       }},
      {"RESOURCE_LIMIT", "rootfs.limits.read_bytes_per_s: 511", "512",
       [](VmSpec& s) { s.rootfs->limits.read_bytes_per_s = 511; }},
      {"RESOURCE_LIMIT", "rootfs.limits.write_ops_per_s: 0", "1",
       [](VmSpec& s) { s.rootfs->limits.write_ops_per_s = 0; }},
      {"RESOURCE_LIMIT", "disks[0].limits.write_bytes_per_s", "9007199254740992",
       [](VmSpec& s) {
         s.disks.push_back(*s.rootfs);
         s.disks[0].limits.write_bytes_per_s = UINT64_MAX;
       }},
  };
  for (const Refusal& refusal : refusals) {
    VmSpec spec = good();
    refusal.spoil(spec);
    const auto result = validate(spec, kHostMib);
    CAPTURE(refusal.reason);
    REQUIRE_FALSE(result);
    CHECK(result.error().code() == Code::kInvalidArgument);
    CHECK(result.error().reason() == refusal.reason);
    INFO(result.error().message());
    CHECK(has(result.error().message(), refusal.field));
    CHECK(has(result.error().message(), refusal.number));
  }
}

TEST_CASE("limits of exactly the bounds are accepted") {
  VmSpec spec = good();
  spec.limits = {.cpu_milli = 10, .cpu_weight = 1, .memory_mib = 194, .pids_max = 9};
  CHECK(validate(spec, kHostMib));
  spec.limits = {
      .cpu_milli = 1'024'000, .cpu_weight = 10'000, .memory_mib = 1 << 20, .pids_max = 4'194'304};
  spec.rootfs->limits = {.read_bytes_per_s = 512, .write_ops_per_s = 1};
  spec.balloon = BalloonSpec{.target_mib = 128, .options = {.stats_interval_s = 86'400}};
  CHECK(validate(spec, kHostMib));
}

TEST_CASE("a command line of exactly the limit is accepted") {
  VmSpec spec = good();
  spec.replace_cmdline = true;
  spec.cmdline = std::string(kMaxCmdlineBytes, 'c');
  CHECK(validate(spec, kHostMib));
}

TEST_CASE("ids are lower-case names of at most 63 bytes") {
  for (const char* id : {"a", "0", "web-1.test_x", "a--b"}) CHECK(validate_id("vm_id", id));
  CHECK(validate_id("vm_id", std::string(63, 'a')));
  for (const char* id : {"", "-a", ".a", "_a", "A", "a/b", "a b", "..", "\xc3\xa9"}) {
    CAPTURE(id);
    CHECK_FALSE(validate_id("vm_id", id));
  }
  const auto longer = validate_id("vm_id", std::string(64, 'a'));
  REQUIRE_FALSE(longer);
  CHECK(has(longer.error().message(), "63"));
}

TEST_CASE("the command line says what the spec asks for") {
  VmSpec spec = good();
  CHECK(has(compose_cmdline(spec), "root=/dev/vda rw"));
  CHECK(has(compose_cmdline(spec), "rdinit=/.mayfly/agent"));
  spec.rootfs->read_only = true;
  CHECK(has(compose_cmdline(spec), " ro"));
  spec.rootfs.reset();
  spec.agent = false;
  CHECK_FALSE(has(compose_cmdline(spec), "root="));
  CHECK_FALSE(has(compose_cmdline(spec), "rdinit"));
  spec.cmdline = "loglevel=7";
  CHECK(compose_cmdline(spec).ends_with(" loglevel=7"));
  spec.replace_cmdline = true;
  CHECK(compose_cmdline(spec) == "loglevel=7");
}

TEST_CASE("files that cannot serve are refused, naming field and path") {
  const Scratch scratch;
  const std::string kernel = scratch.file("kernel", 100);
  const std::string disk = scratch.file("disk", 1024);
  const std::string directory = scratch.path;
  const std::string read_only = scratch.file("read_only", 512);
  ::chmod(read_only.c_str(), 0444);
  ::mkfifo((scratch.path / "fifo").c_str(), 0600);
  const auto refused = [&](const char* reason, const char* field, const std::string& kernel_path,
                           const std::string& disk_path) {
    VmSpec spec;
    spec.agent = false;
    spec.kernel_path = kernel_path;
    spec.rootfs = DiskSpec{.path = disk_path, .read_only = false, .serial = ""};
    const auto files = open_files(spec, "");
    CAPTURE(reason);
    REQUIRE_FALSE(files);
    INFO(files.error().message());
    CHECK(files.error().reason() == reason);
    CHECK(has(files.error().message(), field));
  };
  refused("FILE_NOT_FOUND", "kernel_path", directory + "/none", disk);
  refused("FILE_EMPTY", "kernel_path", scratch.file("empty", 0), disk);
  refused("NOT_A_FILE", "kernel_path", directory, disk);
  refused("NOT_A_FILE", "kernel_path", directory + "/fifo", disk);
  refused("NOT_A_FILE", "kernel_path", "/dev/null", disk);
  refused("FILE_NOT_FOUND", "rootfs", kernel, directory + "/none");
  refused("NOT_A_FILE", "rootfs", kernel, directory);
  refused("NOT_A_FILE", "rootfs", kernel, directory + "/fifo");
  refused("DISK_SIZE", "513", kernel, scratch.file("odd", 513));
  refused("DISK_SIZE", "rootfs", kernel, scratch.file("zero", 0));
  // Root passes open(2) here and is stopped by the mode; anyone else by open(2).
  refused(::geteuid() == 0 ? "DISK_READ_ONLY" : "FILE_NOT_OPENED", "read-only", kernel, read_only);
}

TEST_CASE("a disk that one VM writes to is no other VM's, and readers share") {
  const Scratch scratch;
  VmSpec spec;
  spec.agent = false;
  spec.kernel_path = scratch.file("kernel", 100);
  spec.rootfs = DiskSpec{.path = scratch.file("disk", 1024), .read_only = true, .serial = ""};
  const auto first = open_files(spec, "");
  REQUIRE(first);
  const auto second = open_files(spec, "");
  CHECK(second);
  spec.rootfs->read_only = false;
  const auto writer = open_files(spec, "");
  REQUIRE_FALSE(writer);
  CHECK(writer.error().reason() == "DISK_IN_USE");
}

TEST_CASE("an agent is asked for and the daemon has none") {
  const Scratch scratch;
  VmSpec spec;
  spec.kernel_path = scratch.file("kernel", 100);
  const auto files = open_files(spec, "");
  REQUIRE_FALSE(files);
  CHECK(files.error().reason() == "AGENT_MISSING");
}
