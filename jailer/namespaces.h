// SPDX-License-Identifier: Apache-2.0
//
// The namespaces of one program. Its PID namespace comes from launch(), which is the only one that
// a process cannot enter by itself.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "jailer/jail_spec.h"

namespace mayfly::jailer {

/// That this is process 1 of a new PID namespace.
Result<> check_pid_namespace();

/// /proc/self, opened before the root that has it is gone.
Result<Fd> open_proc_self();

/// kRoot: enters the shared empty namespaces that `spec` names.
Result<> join_shared_namespaces(const JailSpec& spec);

/// Makes its own mount, IPC, UTS and cgroup namespace, a network namespace unless a shared one was
/// entered, and gives its host a neutral name. With kRoot also a user namespace around them, where
/// the host lets us, with `spec`'s ids and no others; with kUser launch() has made that one.
Result<> make_namespaces(FdRef proc_self, const JailSpec& spec);

}  // namespace mayfly::jailer
