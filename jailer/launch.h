// SPDX-License-Identifier: Apache-2.0
//
// How mayflyd starts a jailed program: one clone3() into a new PID namespace and the VM's cgroup,
// then mayfly-jailer by descriptor, which takes the rest away and becomes the program. It stays one
// process from the first to the last step, so the pidfd made here is the program's. Any thread,
// also of a process with many threads (the child shares no lock with them). Linked into the daemon.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <string>
#include <vector>

#include <sys/types.h>

namespace mayfly::jailer {

enum class JailMode {
  kRoot,  // we are root: the program gets `uid` and `gid`, and nothing of ours
  kUser,  // we are not: a user namespace of our own id
  kOff,   // no namespaces, ids, cgroup or Landlock: descriptors, environment and limits only
};

/// kRoot only: the namespaces with nothing in them, made once and shared by what is launched, so
/// that a launch copies no host mounts and sets up no network stack. jailer/empty_namespaces.h
/// makes them.
struct SharedNamespaces {
  FdRef mount;    // its root is an empty read-only directory; invalid: the jailer makes one
  FdRef network;  // no interface is up; invalid: the jailer makes one
};

struct JailPlan {
  JailMode mode = JailMode::kUser;
  // kRoot only; neither may be 0.
  uid_t uid = 0;
  gid_t gid = 0;
  // A cgroup v2 directory the child is born into; invalid: ours.
  FdRef cgroup;
  // cgroup v1: the `cgroup.procs` files the jailer writes itself into, open for writing. At most 8.
  std::vector<FdRef> cgroup_procs;
  SharedNamespaces namespaces;
};

struct LaunchPlan {
  FdRef jailer;                        // mayfly-jailer, open for reading
  FdRef program;                       // what it becomes, open for reading
  std::vector<std::string> arguments;  // argv, argv[0] included
  FdRef standard_error;                // invalid: inherited
  std::vector<FdRef> inherited;        // become descriptors 3, 4, ...; at most 16
  JailPlan jail;
};

struct Launched {
  pid_t pid = 0;  // in our PID namespace
  Fd pidfd;
};

/// Returns when the jailer has been executed. What goes wrong in the jailer itself is told on
/// `standard_error`, one line, and by exit status 1.
Result<Launched> launch(const LaunchPlan& plan);

}  // namespace mayfly::jailer
