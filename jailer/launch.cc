// SPDX-License-Identifier: Apache-2.0
#include "jailer/launch.h"

#include "jailer/jail_spec.h"
#include "jailer/program.h"
#include "jailer/spawn_sys.h"

#include <cerrno>
#include <string_view>
#include <utility>

#include <fcntl.h>
#include <linux/sched.h>
#include <unistd.h>

namespace mayfly::jailer {
namespace {

constexpr int kFirstInherited = 3;
// Beside what is kept: the place of /proc/self, the program, cgroup files, two namespaces.
static_assert(kMaxKept + 1 + 1 + kMaxCgroupProcs + 2 <= kMaxSpawnDescriptors);

Result<> check_open(const char* what, FdRef fd) {
  if (::fcntl(fd.number(), F_GETFD) >= 0) return {};
  return fail_errno({Code::kInvalidArgument, "DESCRIPTOR"}, errno, "%s: descriptor %d", what,
                    fd.number());
}

Result<> check_descriptors(const LaunchPlan& plan) {
  for (const FdRef fd : plan.inherited) TRY(check_open("inherited", fd));
  for (const FdRef fd : plan.jail.cgroup_procs) TRY(check_open("cgroup_procs", fd));
  if (plan.standard_error.valid()) TRY(check_open("standard_error", plan.standard_error));
  return {};
}

Result<> check_plan(const LaunchPlan& plan) {
  if (plan.inherited.size() > kMaxKept) {
    return fail({Code::kInvalidArgument, "TOO_MANY"}, "inherited: %zu are over the limit of %zu",
                plan.inherited.size(), kMaxKept);
  }
  if (plan.jail.cgroup_procs.size() > kMaxCgroupProcs) {
    return fail({Code::kInvalidArgument, "TOO_MANY"}, "cgroup_procs: %zu are over the limit of %zu",
                plan.jail.cgroup_procs.size(), kMaxCgroupProcs);
  }
  if (plan.arguments.empty()) {
    return fail({Code::kInvalidArgument, "NO_ARGUMENTS"}, "arguments: argv[0] is missing");
  }
  if (plan.leaves_proc_self && plan.jail.mode == JailMode::kOff) {
    return fail({Code::kInvalidArgument, "PROC_SELF"},
                "leaves_proc_self: without a jail the program has /proc");
  }
  if (plan.jail.mode == JailMode::kRoot) {
    TRY(check_id("uid", plan.jail.uid));
    TRY(check_id("gid", plan.jail.gid));
  }
  TRY(check_descriptors(plan));
  TRY(check_program("jailer", plan.jailer, plan.jail.mode, /*runs_as_other=*/false));
  return check_program("program", plan.program, plan.jail.mode, plan.jail.mode == JailMode::kRoot);
}

/// What the jailer is told, and the descriptors that go with it in the order of their numbers.
struct Handover {
  JailSpec spec;
  std::vector<FdRef> descriptors;

  int add(FdRef fd) {
    descriptors.push_back(fd);
    return kFirstInherited + static_cast<int>(descriptors.size()) - 1;
  }
};

Handover hand_over(const LaunchPlan& plan, FdRef null) {
  const JailPlan& jail = plan.jail;
  Handover handover;
  JailSpec& spec = handover.spec;
  spec.mode = jail.mode;
  spec.max_file_bytes = jail.max_file_bytes;
  spec.arguments = plan.arguments;
  for (const FdRef fd : plan.inherited) spec.kept.push_back(handover.add(fd));
  // Only the jailer can open it; until then something else has its number.
  if (plan.leaves_proc_self) spec.proc_self = handover.add(null);
  spec.exec_fd = handover.add(plan.program);
  for (const FdRef fd : jail.cgroup_procs) spec.cgroup_procs.push_back(handover.add(fd));
  if (jail.mode == JailMode::kRoot) {
    spec.uid = jail.uid;
    spec.gid = jail.gid;
    const SharedNamespaces& shared = jail.namespaces;
    if (shared.mount.valid()) spec.mount_namespace = handover.add(shared.mount);
    if (shared.network.valid()) spec.network_namespace = handover.add(shared.network);
  } else if (jail.mode == JailMode::kUser) {
    spec.uid = ::geteuid();
    spec.gid = ::getegid();
  }
  return handover;
}

/// The setting that keeps user namespaces from us, as far as it can be told.
std::string user_namespace_hint() {
  constexpr std::pair<const char*, std::string_view> kForbidding[] = {
      {"/proc/sys/user/max_user_namespaces", "0"},
      {"/proc/sys/kernel/unprivileged_userns_clone", "0"},
      {"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"},
  };
  for (const auto& [path, forbidding] : kForbidding) {
    const auto file = Fd::open(path, O_RDONLY);
    char text[2] = {};
    if (!file || ::pread(file->number(), text, sizeof(text), 0) != sizeof(text)) continue;
    if (text[1] == '\n' && std::string_view(text, 1) == forbidding) {
      return format("%s is %c", path, text[0]);
    }
  }
  return "a chroot, a container's seccomp filter or a security module may forbid them";
}

std::unexpected<Error> user_namespaces_refused(const char* what, int os_errno) {
  return fail_errno({Code::kFailedPrecondition, "USER_NAMESPACES_OFF"}, os_errno,
                    "%s: user %u may not use user namespaces here (%s)", what, ::geteuid(),
                    user_namespace_hint().c_str());
}

std::unexpected<Error> clone_failed(const JailPlan& jail, int os_errno) {
  const bool user = jail.mode == JailMode::kUser;
  switch (os_errno) {
    case ENOSYS:
      return fail_errno({Code::kFailedPrecondition, "NO_CLONE3"}, os_errno,
                        "clone3 (Linux 5.7 has it; a container's seccomp filter may hide it)");
    case EACCES:
    case EBUSY:
    case ENOENT:
    case ENODEV:
    case EBADF:
    case EOPNOTSUPP:
      // No other part of the clone answers with these.
      return fail_errno({Code::kFailedPrecondition, "CGROUP_REFUSED"}, os_errno,
                        "start a process in the cgroup of descriptor %d", jail.cgroup.number());
    case EAGAIN:
      return fail_errno({Code::kResourceExhausted, "PROCESS_LIMIT"}, os_errno,
                        "start a process (pids.max of the cgroup, or RLIMIT_NPROC)");
    case EPERM:
      if (user) return user_namespaces_refused("clone", os_errno);
      return fail_errno({Code::kPermissionDenied, "NOT_PRIVILEGED"}, os_errno,
                        "start a process in a new PID namespace (needs CAP_SYS_ADMIN)");
    case ENOSPC:
    case EUSERS:
      if (user) return user_namespaces_refused("clone", os_errno);
      return fail_errno({Code::kResourceExhausted, "NAMESPACE_LIMIT"}, os_errno,
                        "start a process in a new PID namespace (/proc/sys/user/"
                        "max_pid_namespaces; 32 may be nested)");
    default:
      return fail_errno({Code::kResourceExhausted, "CLONE"}, os_errno, "clone3");
  }
}

std::unexpected<Error> spawn_failed(const JailPlan& jail, const SpawnFailure& failure) {
  const int os_errno = failure.os_errno;
  switch (failure.step) {
    case SpawnStep::kClone:
      return clone_failed(jail, os_errno);
    case SpawnStep::kSession:
      return fail_errno({Code::kInternal, "SESSION"}, os_errno, "setsid in the child");
    case SpawnStep::kDescriptors:
      return fail_errno({Code::kInvalidArgument, "DESCRIPTOR"}, os_errno,
                        "place the child's descriptors");
    case SpawnStep::kSignals:
      return fail_errno({Code::kInternal, "SIGNALS"}, os_errno, "reset the child's signals");
    case SpawnStep::kCapabilities:
      return user_namespaces_refused("keep capabilities in it", os_errno);
    case SpawnStep::kExec:
      break;
  }
  return fail_errno({Code::kFailedPrecondition, "EXEC_JAILER"}, os_errno, "execute the jailer");
}

uint64_t namespaces_of(JailMode mode) {
  switch (mode) {
    case JailMode::kRoot:
      return CLONE_NEWPID;
    case JailMode::kUser:
      return CLONE_NEWPID | CLONE_NEWUSER;
    case JailMode::kOff:
      break;
  }
  return 0;
}

}  // namespace

Result<Launched> launch(const LaunchPlan& plan) {
  TRY(check_plan(plan));
  const Fd null = TRY(Fd::open("/dev/null", O_RDWR));
  const Handover handover = hand_over(plan, null.ref());
  const std::vector<std::string> arguments = format_arguments(handover.spec);
  Spawn how;
  how.namespaces = namespaces_of(plan.jail.mode);
  how.cgroup = plan.jail.cgroup;
  how.standard[0] = how.standard[1] = null.ref();
  how.standard[2] = plan.standard_error;
  how.inherited = handover.descriptors;
  how.keep_capabilities = plan.jail.mode == JailMode::kUser;
  how.program = plan.jailer;
  how.arguments.push_back("mayfly-jailer");
  for (const std::string& argument : arguments) how.arguments.push_back(argument.c_str());
  auto spawned = spawn(how);
  if (!spawned) return spawn_failed(plan.jail, spawned.error());
  return Launched{.pid = spawned->pid, .pidfd = std::move(spawned->pidfd)};
}

}  // namespace mayfly::jailer
