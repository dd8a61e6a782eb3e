// SPDX-License-Identifier: Apache-2.0
//
// cgroup v1, where a process cannot be born into its groups.
#pragma once

#include "base/error.h"
#include "jailer/jail_spec.h"

namespace mayfly::jailer {

/// Moves this process into the group of each `cgroup_procs` file.
Result<> join_cgroups(const JailSpec& spec);

}  // namespace mayfly::jailer
