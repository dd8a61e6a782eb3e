// SPDX-License-Identifier: Apache-2.0
//
// How mayflyd starts a jailed program: one clone3() into a new PID namespace and the VM's cgroup,
// then mayfly-jailer by descriptor, which takes the rest away and becomes the program. It stays one
// process from the first to the last step, so the pidfd made here is the program's.
//
// Any thread, also of a process with many threads: the child shares no lock with them.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "jailer/jail_mode.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace mayfly::jailer {

/// kRoot only: the namespaces with nothing in them, made once and shared by what is launched, so
/// that a launch copies no host mounts and sets up no network stack. jailer/empty_namespaces.h
/// makes them.
struct SharedNamespaces {
  FdRef mount = {};    // its root is an empty read-only directory; invalid: the jailer makes one
  FdRef network = {};  // no interface is up; invalid: the jailer makes one
};

struct JailPlan {
  JailMode mode = JailMode::kUser;
  // kRoot only; neither may be 0 or 4294967295. No other process should have this uid.
  uid_t uid = 0;
  gid_t gid = 0;
  // A cgroup v2 directory the child is born into; invalid: ours. In every mode.
  FdRef cgroup = {};
  // cgroup v1: the `cgroup.procs` files the jailer writes itself into, open for writing. At most
  // kMaxCgroupProcs. In every mode.
  std::vector<FdRef> cgroup_procs = {};
  // No file can be written beyond this: a program that was taken over cannot fill a file system by
  // making a disk image grow. Absent: our own limit. Not for kOff.
  std::optional<uint64_t> max_file_bytes = {};
  SharedNamespaces namespaces = {};
};

struct LaunchPlan {
  // mayfly-jailer, and what it becomes, both open for reading. Static: a jail has no libraries.
  FdRef jailer = {};
  FdRef program = {};
  std::vector<std::string> arguments = {};  // argv, argv[0] included
  FdRef standard_error = {};                // invalid: inherited
  std::vector<FdRef> inherited = {};        // become 3, 4, ...; at most kMaxKept, no directory
  // The program also gets the directory of itself in /proc, behind them: O_PATH, and for it to
  // close before it reads what is hostile. Not with JailMode::kOff, which leaves it /proc.
  bool leaves_proc_self = false;
  JailPlan jail = {};
};

struct Launched {
  pid_t pid = 0;  // in our PID namespace
  Fd pidfd;
};

/// Returns when the jailer has been executed, in a session of its own, with an empty environment,
/// /dev/null as standard input and output, and default signals. What goes wrong in the jailer
/// itself is told on `standard_error`, one line, and by exit status 1. After an Error there is no
/// process.
Result<Launched> launch(const LaunchPlan& plan);

}  // namespace mayfly::jailer
