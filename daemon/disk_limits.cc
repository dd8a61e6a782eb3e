// SPDX-License-Identifier: Apache-2.0
#include "daemon/disk_limits.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>

#include <sys/stat.h>
#include <sys/sysmacros.h>

namespace mayfly::daemon {

namespace {

using Field = std::optional<uint64_t> DiskLimits::*;
constexpr std::pair<Field, const char*> kFields[] = {
    {&DiskLimits::read_bytes_per_s, "read_bytes_per_s"},
    {&DiskLimits::write_bytes_per_s, "write_bytes_per_s"},
    {&DiskLimits::read_ops_per_s, "read_ops_per_s"},
    {&DiskLimits::write_ops_per_s, "write_ops_per_s"},
};

std::string name_of(dev_t device) { return format("%u:%u", major(device), minor(device)); }

}  // namespace

Result<dev_t> backing_device(FdRef file, const char* field, const std::string& sys) {
  struct stat status;
  if (::fstat(file.number(), &status) != 0)
    return fail_errno({Code::kInternal, "FSTAT"}, errno, "%s: fstat", field);
  dev_t device = S_ISBLK(status.st_mode) ? status.st_rdev : status.st_dev;
  std::error_code error;
  const auto node = std::filesystem::canonical(sys + "/dev/block/" + name_of(device), error);
  if (error) {
    return fail({Code::kFailedPrecondition, "NO_BLOCK_DEVICE"},
                "%s.limits: the file is on no single block device (%s is none: tmpfs, overlayfs, a "
                "network or multi-device file system), so the kernel cannot limit its I/O",
                field, name_of(device).c_str());
  }
  if (!std::filesystem::exists(node / "partition", error)) return device;
  unsigned whole_major = 0;
  unsigned whole_minor = 0;
  std::string text;
  std::ifstream whole(node.parent_path() / "dev");
  std::getline(whole, text);
  if (std::sscanf(text.c_str(), "%u:%u", &whole_major, &whole_minor) != 2) {
    return fail({Code::kFailedPrecondition, "NO_BLOCK_DEVICE"},
                "%s.limits: cannot tell the disk of partition %s", field, name_of(device).c_str());
  }
  return makedev(whole_major, whole_minor);
}

Result<std::vector<DeviceLimits>> device_limits(const VmSpec& spec, const SpecFiles& files) {
  const std::vector<const DiskSpec*> disks = all_disks(spec);
  const auto limited = [](const DiskSpec* disk) { return disk->limits.any(); };
  if (std::none_of(disks.begin(), disks.end(), limited)) return std::vector<DeviceLimits>();
  struct Shared {
    DiskLimits sum;
    const DiskSpec* first = nullptr;
  };
  std::map<dev_t, Shared> devices;
  for (size_t i = 0; i < disks.size(); ++i) {
    const DiskSpec& disk = *disks[i];
    const std::string field = disk_field(spec, i);
    auto device = backing_device(files.disks[i].ref(), field.c_str(), "/sys");
    if (!device && !disk.limits.any()) continue;  // On nothing that another one's could be on.
    if (!device) return std::unexpected(std::move(device).error());
    Shared& shared = devices[*device];
    if (shared.first == nullptr) {
      shared = {.sum = disk.limits, .first = &disk};
      continue;
    }
    for (const auto& [limit, name] : kFields) {
      const std::optional<uint64_t>& value = disk.limits.*limit;
      if (value.has_value() != (shared.first->limits.*limit).has_value()) {
        return fail({Code::kInvalidArgument, "DISK_LIMITS_SHARED"},
                    "%s.limits.%s: %s is on the same device (%s) as %s, and the kernel limits them "
                    "together; give both a limit, or neither",
                    field.c_str(), name, disk.path.c_str(), name_of(*device).c_str(),
                    shared.first->path.c_str());
      }
      if (value) shared.sum.*limit = *(shared.sum.*limit) + *value;
    }
  }
  std::vector<DeviceLimits> out;
  for (const auto& [device, shared] : devices) {
    if (shared.sum.any())
      out.push_back({.major = major(device), .minor = minor(device), .limits = shared.sum});
  }
  return out;
}

}  // namespace mayfly::daemon
