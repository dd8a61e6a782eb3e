// SPDX-License-Identifier: Apache-2.0
//
// Where this process stands in the host's cgroup trees, of version 2, 1, or both side by side, and
// which of them has each controller. See cgroups(7).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace mayfly::daemon {

enum class Controller : uint8_t { kCpu, kMemory, kPids, kIo };
inline constexpr std::array kControllers = {Controller::kCpu, Controller::kMemory,
                                            Controller::kPids, Controller::kIo};

/// "cpu", "memory", "pids", and by version "io" or "blkio".
const char* controller_name(Controller controller, int version = 2);

/// One mounted tree and our place in it.
struct CgroupTree {
  // 1 or 2; 0: there is none.
  int version = 0;
  // An absolute path.
  std::string mount_point;
  // Of our own group, below the mount point: "/" or "/a/b".
  std::string own;
  bool favors_dynamic_mods = false;

  std::string own_dir() const { return own == "/" ? mount_point : mount_point + own; }
};

struct CgroupLayout {
  CgroupTree unified;
  // Of version 1, by Controller.
  std::array<CgroupTree, kControllers.size()> v1;

  const CgroupTree& v1_of(Controller controller) const {
    return v1[static_cast<size_t>(controller)];
  }
};

/// From the texts of /proc/self/mountinfo and /proc/self/cgroup. Trees that our own group is not
/// visible in are left out.
CgroupLayout parse_cgroup_layout(const std::string& mountinfo, const std::string& self_cgroup);

CgroupLayout read_cgroup_layout();

}  // namespace mayfly::daemon
