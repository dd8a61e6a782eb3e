// SPDX-License-Identifier: Apache-2.0
#include "daemon/disk_limits.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

using namespace mayfly;
using namespace mayfly::daemon;

namespace {

/// A directory with files in it, and a /sys that says what device they are on.
struct Scratch {
  std::filesystem::path path;
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "disk_limits.XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~Scratch() { std::filesystem::remove_all(path); }
  Fd file(const char* name) const {
    std::ofstream(path / name) << "x";
    return *Fd::open((path / name).c_str(), O_RDONLY);
  }
  std::string device_name() const {
    struct stat status;
    ::stat(path.c_str(), &status);
    return std::to_string(major(status.st_dev)) + ":" + std::to_string(minor(status.st_dev));
  }
};

}  // namespace

TEST_CASE("a file on a partition is limited by its whole disk") {
  const Scratch scratch;
  const Fd file = scratch.file("disk");
  const auto disk = scratch.path / "sys/devices/sda";
  std::filesystem::create_directories(disk / "sda1");
  std::filesystem::create_directories(scratch.path / "sys/dev/block");
  std::ofstream(disk / "dev") << "8:16\n";
  std::filesystem::create_directory_symlink(disk / "sda1",
                                            scratch.path / "sys/dev/block" / scratch.device_name());
  const std::string sys = scratch.path / "sys";
  struct stat status;
  ::fstat(file.number(), &status);
  CHECK(*backing_device(file.ref(), "rootfs", sys) == status.st_dev);
  std::ofstream(disk / "sda1/partition") << "1\n";
  CHECK(*backing_device(file.ref(), "rootfs", sys) == makedev(8, 16));
}

TEST_CASE("a file on no block device is refused with the reason") {
  const Fd memory = *Fd::memfd("disk", 4096);
  const auto device = backing_device(memory.ref(), "disks[2]", "/sys");
  REQUIRE_FALSE(device);
  CHECK(device.error().code() == Code::kFailedPrecondition);
  CHECK(device.error().reason() == "NO_BLOCK_DEVICE");
  CHECK(device.error().message().starts_with("disks[2].limits: "));
  CHECK(device.error().message().find("tmpfs") != std::string::npos);
}

TEST_CASE("disks on one device are limited together, or not at all") {
  const Scratch scratch;
  VmSpec spec;
  SpecFiles files;
  for (const char* name : {"a", "b"}) {
    spec.disks.push_back(
        {.path = scratch.path / name, .read_only = true, .serial = "", .limits = {}});
    files.disks.push_back(scratch.file(name));
  }
  CHECK(device_limits(spec, files)->empty());
  if (!backing_device(files.disks[0].ref(), "a", "/sys")) {
    MESSAGE("skipped: the temporary directory is on no block device");
    return;
  }
  spec.disks[0].limits.read_bytes_per_s = 1000;
  spec.disks[0].limits.write_ops_per_s = 7;
  auto shared = device_limits(spec, files);
  REQUIRE_FALSE(shared);
  CHECK(shared.error().reason() == "DISK_LIMITS_SHARED");
  CHECK(shared.error().message().starts_with("disks[1].limits.read_bytes_per_s: "));
  spec.disks[1].limits = {.read_bytes_per_s = 500, .write_ops_per_s = 3};
  shared = device_limits(spec, files);
  REQUIRE(shared);
  REQUIRE(shared->size() == 1);
  const DeviceLimits& device = shared->front();
  CHECK(device.limits.read_bytes_per_s == 1500);
  CHECK(device.limits.write_ops_per_s == 10);
  CHECK_FALSE(device.limits.write_bytes_per_s);
}
