// SPDX-License-Identifier: Apache-2.0
//
// How this daemon confines monitors: as whom, in which namespaces, below which cgroup. JailHost is
// made once, before the daemon has threads and while it has all its privileges; VmJail is one VM's
// share of it.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/cgroup.h"
#include "daemon/id_pool.h"
#include "jailer/empty_namespaces.h"
#include "jailer/launch.h"

#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace mayfly::daemon {

using jailer::JailMode;

/// "root", "user", "off".
const char* jail_mode_name(JailMode mode);

struct JailOptions {
  // "auto", or a mode's name. Auto: root where we are root and have the ids, else user.
  std::string mode = "auto";
  // Empty: kDefaultIds.
  std::string uid_range = {};
  // Empty: below our own group.
  std::string cgroup_parent = {};
  std::string jailer_path = {};
  std::string vmm_path = {};
  // Locked by us: what has its name is ours to sweep.
  std::string state_dir = {};
};

/// Where user namespaces are refused: the setting that does, and the command that mends it.
std::pair<std::string, std::string> user_namespace_advice();

/// What callers see of it.
struct JailView {
  JailMode mode = JailMode::kOff;
  // 0 but in mode root.
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<std::string> cgroups;
  // What holds, defaults included.
  ResourceLimits limits;
};

/// Lives until its VM's monitor has been reaped; gives everything back then.
class VmJail {
 public:
  const JailView& view() const { return view_; }
  /// Borrows from here and from the JailHost; until launched().
  jailer::JailPlan plan() const { return plan_; }
  /// The kernel ended the monitor for want of memory. Before ended(), on its thread.
  bool killed_for_memory() const { return cgroup_ && cgroup_->killed_for_memory(); }
  /// No file can be written beyond this. Before plan() is used.
  void limit_files(uint64_t max_bytes) { plan_.max_file_bytes = max_bytes; }
  /// A VM is about to be saved, which may leave its memory behind and copy its pages: each is as
  /// much again, once. Any thread.
  void allow_saving(uint64_t guest_mib);
  /// The monitor is in its group: closes what brought it there. The thread that launches it.
  void launched();
  /// The monitor has been reaped: gives back what goes without waiting. The reactor's thread.
  void ended();

 private:
  friend class JailHost;
  JailView view_;
  jailer::JailPlan plan_;
  // A monitor may end while it is still being launched.
  std::mutex mutex_;
  // Guarded by mutex_. The id is given back after the group is gone.
  IdLease id_;
  std::unique_ptr<VmCgroup> cgroup_;
  bool allows_saving_ = false;
};

class JailHost {
 public:
  /// One thread, before there are others.
  static Result<std::unique_ptr<JailHost>> open(const JailOptions& options);

  /// Any thread.
  Result<std::unique_ptr<VmJail>> make(const std::string& vm_id, const GroupLimits& limits);

  JailMode mode() const { return mode_; }
  /// Why auto chose what it chose; empty where there was no choice.
  const std::string& reason() const { return reason_; }
  /// Null in mode off.
  const CgroupParent* cgroups() const { return cgroups_.get(); }
  /// Null but in mode root.
  const IdPool* ids() const { return ids_.get(); }
  /// 0, or why this user may make no user namespaces.
  int user_namespace_error() const { return user_namespace_error_; }
  /// What an operator should know, one sentence each.
  const std::vector<std::string>& warnings() const { return warnings_; }
  /// Both programs are opened once: what is executed later is what was there at the start.
  FdRef jailer() const { return jailer_.ref(); }
  FdRef vmm() const { return vmm_.ref(); }

 private:
  JailHost() = default;
  Result<> choose_mode(const JailOptions& options, const IdRange& range);
  Result<> open_root(const IdRange& range);
  void collect_warnings();

  JailMode mode_ = JailMode::kUser;
  std::string reason_;
  int user_namespace_error_ = 0;
  Fd jailer_;
  Fd vmm_;
  jailer::EmptyNamespaces namespaces_;
  std::unique_ptr<IdPool> ids_;
  std::unique_ptr<CgroupParent> cgroups_;
  std::vector<std::string> warnings_;
};

}  // namespace mayfly::daemon
