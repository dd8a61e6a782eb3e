// SPDX-License-Identifier: Apache-2.0
//
// A cgroup for each VM, below one parent: its limits, and the descriptors by which its monitor gets
// into it. On version 2 the monitor is born there; on version 1, where nothing is born elsewhere,
// the jailer moves itself. Blocking file system calls, so never on the reactor's thread, save where
// it is said.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/cgroup_layout.h"
#include "daemon/limits.h"

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace mayfly::daemon {

/// What one device of the host may do for a VM.
struct DeviceLimits {
  unsigned major = 0;
  unsigned minor = 0;
  DiskLimits limits = {};
};

struct GroupLimits {
  ResourceLimits asked = {};
  // Used where nothing was asked for and the host can.
  uint64_t default_memory_mib = 0;
  uint32_t default_pids = 0;
  std::vector<DeviceLimits> devices = {};
};

class CgroupParent;

/// One VM's group. Not thread-safe.
class VmCgroup {
 public:
  /// remove(), and a warning where that fails.
  ~VmCgroup();
  VmCgroup(const VmCgroup&) = delete;
  VmCgroup& operator=(const VmCgroup&) = delete;

  /// Version 2: the directory to be born into, or invalid.
  FdRef directory() const { return directory_.ref(); }
  /// Version 1: the files to write oneself into.
  std::vector<FdRef> procs() const;
  /// Nobody is to be born or moved here any more.
  void close_descriptors();
  /// As much memory more, where it is limited; a warning where that fails.
  void raise_memory(uint64_t mib);
  /// What was set when it was made, defaults included.
  const ResourceLimits& limits() const { return limits_; }
  const std::vector<std::string>& paths() const { return paths_; }

  /// Whether the kernel killed a process of the group for want of memory. Does not block; the
  /// reactor's thread may.
  bool killed_for_memory() const;

  /// Once the VM has been reaped: removes the directories. False while the kernel still holds them,
  /// which it does for some milliseconds at times. Does not block either.
  bool try_remove();

 private:
  friend class CgroupParent;
  VmCgroup() = default;
  Result<> make(const CgroupParent& parent, const std::string& name);
  Result<> make_directory(const std::string& base, const std::string& name, int version);
  Result<> set_limits(const CgroupParent& parent, const GroupLimits& limits);
  Result<> set(const CgroupParent& parent, Controller controller, const char* v2_file,
               const char* v1_file, const std::string& v2_text, const std::string& v1_text);
  Result<> set_device(const CgroupParent& parent, const DeviceLimits& device);

  std::string name_;
  std::vector<std::string> paths_;
  Fd directory_;
  std::vector<Fd> procs_;
  std::string memory_events_;
  std::string memory_limit_;
  ResourceLimits limits_;
};

class CgroupParent {
 public:
  /// `path` is below the root of each tree ("/machine/mayfly"); empty: `mayfly` below our own
  /// group, which on version 2 we leave for one beside it where the kernel wants that and we are
  /// alone in it. `tag` tells our VMs' groups from those of other daemons with the same parent.
  /// What is left of a killed daemon of that tag is ended and removed. A host without cgroups that
  /// we may write to is no error: problem() says so.
  static Result<std::unique_ptr<CgroupParent>> open(const CgroupLayout& layout,
                                                    const std::string& path,
                                                    const std::string& tag);
  /// Removes the parent where no other daemon has a group there and it was not given to us.
  ~CgroupParent();

  /// A group with its limits set, or nothing at all. What is asked for and cannot be set is
  /// FAILED_PRECONDITION, naming the controller.
  Result<std::unique_ptr<VmCgroup>> create(const std::string& vm_id,
                                           const GroupLimits& limits) const;

  /// 0: this host lets us have no such controller.
  int version(Controller controller) const { return base_of(controller).version; }
  /// Below which groups are made; empty where there is none.
  const std::string& dir(Controller controller) const { return base_of(controller).dir; }
  /// Why not; empty where it does.
  const std::string& problem(Controller controller) const { return base_of(controller).problem; }
  const CgroupLayout& layout() const { return layout_; }
  /// How VMs get into their groups; see docs/api.md on what that costs.
  bool joins_by_move() const;

 private:
  friend class VmCgroup;
  struct Base {
    int version = 0;
    std::string dir;
    std::string problem;
  };

  CgroupParent(const CgroupLayout& layout, std::string path, std::string tag)
      : layout_(layout), path_(std::move(path)), tag_(std::move(tag)) {}
  const Base& base_of(Controller controller) const {
    return bases_[static_cast<size_t>(controller)];
  }
  std::string base_path(const CgroupTree& tree) const;
  /// The different directories below which groups are made.
  std::vector<const Base*> bases() const;
  void prepare_unified();
  void prepare_v1(Controller controller);
  void sweep(const Base& base) const;

  const CgroupLayout layout_;
  const std::string path_;
  const std::string tag_;
  std::array<Base, kControllers.size()> bases_;
  // The parents that go with the last daemon that uses them: those that this one made, and each of
  // the default's name, which only daemons make. In the order they were made.
  std::vector<std::string> ours_;
};

}  // namespace mayfly::daemon
