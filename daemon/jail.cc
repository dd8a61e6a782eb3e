// SPDX-License-Identifier: Apache-2.0
#include "daemon/jail.h"

#include "daemon/host_probe_sys.h"
#include "daemon/text.h"

#include <cstring>
#include <fstream>
#include <iterator>

#include <fcntl.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

constexpr const char* kIdLocks = "/run/mayfly-ids.lock";

std::string read_all(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// FNV-1a, so that the tag is the same for each daemon on this state directory.
std::string tag_of(const std::string& state_dir) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : state_dir) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return format("%016llx", static_cast<unsigned long long>(hash));
}

Result<> check_ids(const IdRange& range) {
  TRY(check_ids_mapped(range, read_all("/proc/self/uid_map"), "/proc/self/uid_map"));
  return check_ids_mapped(range, read_all("/proc/self/gid_map"), "/proc/self/gid_map");
}

}  // namespace

const char* jail_mode_name(JailMode mode) {
  switch (mode) {
    case JailMode::kRoot:
      return "root";
    case JailMode::kUser:
      return "user";
    case JailMode::kOff:
      return "off";
  }
  return "?";
}

std::pair<std::string, std::string> user_namespace_advice() {
  struct Setting {
    const char* path;
    const char* name;
    const char* forbids;
    const char* allows;
  };
  for (const Setting& setting :
       {Setting{"/proc/sys/user/max_user_namespaces", "user.max_user_namespaces", "0", "15000"},
        Setting{"/proc/sys/kernel/unprivileged_userns_clone", "kernel.unprivileged_userns_clone",
                "0", "1"},
        Setting{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                "kernel.apparmor_restrict_unprivileged_userns", "1", "0"}}) {
    if (read_all(setting.path) != std::string(setting.forbids) + "\n") continue;
    return {format("%s is %s", setting.name, setting.forbids),
            format("sudo sysctl %s=%s", setting.name, setting.allows)};
  }
  return {"no setting known to do so; a container's seccomp profile or a security module may",
          "run mayflyd as root, or allow unshare(CLONE_NEWUSER) in the container's profile"};
}

void VmJail::allow_saving(uint64_t guest_mib) {
  std::lock_guard lock(mutex_);
  if (!std::exchange(allows_saving_, true) && cgroup_) cgroup_->raise_memory(2 * guest_mib);
}

void VmJail::launched() {
  std::lock_guard lock(mutex_);
  if (cgroup_) cgroup_->close_descriptors();
}

void VmJail::ended() {
  std::lock_guard lock(mutex_);
  if (cgroup_ && !cgroup_->try_remove()) return;  // Our destructor waits for the kernel.
  cgroup_.reset();
  id_.reset();
}

Result<> JailHost::choose_mode(const JailOptions& options, const IdRange& range) {
  const bool root = ::geteuid() == 0;
  if (options.mode == "off") {
    mode_ = JailMode::kOff;
  } else if (options.mode == "root") {
    if (!root) {
      return fail({Code::kPermissionDenied, "JAIL_NEEDS_ROOT"},
                  "--jail=root: this is user %u, not root; --jail=user needs no privileges",
                  ::geteuid());
    }
    mode_ = JailMode::kRoot;
  } else if (options.mode == "user") {
    mode_ = JailMode::kUser;
  } else if (options.mode == "auto") {
    mode_ = JailMode::kUser;
    reason_ = "not root";
    if (root) {
      const auto usable = check_ids(range);
      mode_ = usable ? JailMode::kRoot : JailMode::kUser;
      reason_ = usable ? "root" : usable.error().message();
    }
  } else {
    return fail({Code::kInvalidArgument, "JAIL_MODE"},
                "--jail: \"%s\" is none of auto, root, user, off",
                printable(options.mode, 64).c_str());
  }
  return {};
}

Result<> JailHost::open_root(const IdRange& range) {
  TRY(check_ids(range));
  TRY(check_ids_unowned(range, "/etc"));
  ids_ = TRY(IdPool::open(range, kIdLocks));
  namespaces_ = TRY(jailer::make_empty_namespaces());
  return {};
}

Result<std::unique_ptr<JailHost>> JailHost::open(const JailOptions& options) {
  std::unique_ptr<JailHost> host(new JailHost());
  const IdRange range =
      options.uid_range.empty() ? kDefaultIds : TRY(parse_id_range(options.uid_range));
  TRY(host->choose_mode(options, range));
  host->jailer_ = TRY(Fd::open(options.jailer_path.c_str(), O_RDONLY));
  host->vmm_ = TRY(Fd::open(options.vmm_path.c_str(), O_RDONLY));
  if (host->mode_ == JailMode::kRoot) TRY(host->open_root(range));
  host->user_namespace_error_ = try_user_namespace();
  if (host->mode_ == JailMode::kUser && host->user_namespace_error_ != 0) {
    const auto [setting, remedy] = user_namespace_advice();
    return fail({Code::kFailedPrecondition, "USER_NAMESPACES"},
                "--jail=%s: not as root, VMs are jailed by user namespaces, and the kernel refuses "
                "them: %s; %s; `%s` mends it; --jail=off runs VMs unconfined",
                options.mode.c_str(), std::strerror(host->user_namespace_error_), setting.c_str(),
                remedy.c_str());
  }
  if (host->mode_ != JailMode::kOff) {
    host->cgroups_ = TRY(
        CgroupParent::open(read_cgroup_layout(), options.cgroup_parent, tag_of(options.state_dir)));
  }
  host->collect_warnings();
  return host;
}

void JailHost::collect_warnings() {
  if (mode_ == JailMode::kOff) {
    warnings_.push_back(
        "--jail=off: monitors are not confined; a guest that breaks out of one has this user's "
        "rights on the host");
    return;
  }
  for (const Controller controller : {Controller::kMemory, Controller::kPids}) {
    if (cgroups_->version(controller) != 0) continue;
    warnings_.push_back(format("VMs have no %s limit: %s", controller_name(controller),
                               cgroups_->problem(controller).c_str()));
  }
}

Result<std::unique_ptr<VmJail>> JailHost::make(const std::string& vm_id,
                                               const GroupLimits& limits) {
  auto jail = std::make_unique<VmJail>();
  jail->view_.mode = mode_;
  jail->plan_.mode = mode_;
  if (mode_ == JailMode::kOff) {
    const ResourceLimits& asked = limits.asked;
    if (asked.cpu_milli || asked.cpu_weight || asked.memory_mib || asked.pids_max ||
        !limits.devices.empty()) {
      return fail({Code::kFailedPrecondition, "JAIL_OFF"},
                  "limits: this daemon runs with --jail=off and sets none");
    }
    return jail;
  }
  if (mode_ == JailMode::kRoot) {
    jail->id_ = TRY(ids_->take());
    jail->view_.uid = jail->view_.gid = jail->id_.id();
    jail->plan_.uid = jail->view_.uid;
    jail->plan_.gid = jail->view_.gid;
    jail->plan_.namespaces = namespaces_.shared();
  }
  jail->cgroup_ = TRY(cgroups_->create(vm_id, limits));
  jail->view_.cgroups = jail->cgroup_->paths();
  jail->view_.limits = jail->cgroup_->limits();
  jail->plan_.cgroup = jail->cgroup_->directory();
  jail->plan_.cgroup_procs = jail->cgroup_->procs();
  return jail;
}

}  // namespace mayfly::daemon
