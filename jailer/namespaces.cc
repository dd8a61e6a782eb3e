// SPDX-License-Identifier: Apache-2.0
#include "jailer/namespaces.h"

#include "jailer/ids.h"

#include <cerrno>
#include <string_view>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

namespace mayfly::jailer {
namespace {

constexpr std::string_view kHostName = "mayfly";
constexpr std::string_view kDomainName = "(none)";  // the kernel's own word for none

Result<> join(int descriptor, int kind, const char* what) {
  if (descriptor < 0 || ::setns(descriptor, kind) == 0) return {};
  return fail_errno({Code::kFailedPrecondition, "JOIN_NAMESPACE"}, errno,
                    "descriptor %d: enter the shared %s namespace", descriptor, what);
}

Result<> set_neutral_names() {
  if (::sethostname(kHostName.data(), kHostName.size()) != 0 ||
      ::setdomainname(kDomainName.data(), kDomainName.size()) != 0) {
    return fail_errno({Code::kInternal, "HOST_NAME"}, errno, "set the host name");
  }
  return {};
}

}  // namespace

Result<> check_pid_namespace() {
  if (::getpid() == 1) return {};
  return fail({Code::kFailedPrecondition, "PID_NAMESPACE"},
              "the jailer is process %d, not the first of a PID namespace of its own", ::getpid());
}

Result<Fd> open_proc_self() { return Fd::open("/proc/self", O_PATH | O_DIRECTORY); }

Result<> join_shared_namespaces(const JailSpec& spec) {
  TRY(join(spec.network_namespace, CLONE_NEWNET, "network"));
  return join(spec.mount_namespace, CLONE_NEWNS, "mount");
}

Result<> make_namespaces(FdRef proc_self, const JailSpec& spec) {
  int kinds = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
  if (spec.network_namespace < 0) kinds |= CLONE_NEWNET;
  // Inside a user namespace of its own even a bug that gives the program capabilities gives it
  // none over the host. A host that forbids them (sysctl, nesting) has a jail all the same.
  bool mapped = spec.mode == JailMode::kUser;
  if (spec.mode == JailMode::kRoot && ::unshare(kinds | CLONE_NEWUSER) == 0) {
    mapped = true;
  } else if (::unshare(kinds) != 0) {
    return fail_errno({Code::kFailedPrecondition, "NAMESPACES"}, errno,
                      "make namespaces (/proc/sys/user/max_*_namespaces bound their number)");
  }
  if (mapped) TRY(map_ids(proc_self, spec));
  return set_neutral_names();
}

}  // namespace mayfly::jailer
