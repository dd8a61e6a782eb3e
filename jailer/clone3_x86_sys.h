// SPDX-License-Identifier: Apache-2.0
//
// clone3(2) for a child that runs on a stack of its own in the caller's memory. glibc 2.36 has no
// wrapper that can give a child its cgroup, and its fork handlers must not run.
#pragma once

#include <linux/sched.h>

namespace mayfly::jailer {

/// The child calls `entry(argument)` on the stack that `arguments` names (a multiple of 16 in
/// address and size), which never returns. The child's process id, or a negated errno. With
/// CLONE_VM and CLONE_VFORK, and signals blocked: `entry` must leave the caller's memory as a
/// signal handler would, must not allocate or take a lock, and shares the caller's errno.
long clone3_onto_stack(const clone_args& arguments, void (*entry)(void*), void* argument);

}  // namespace mayfly::jailer
