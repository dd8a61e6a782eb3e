// SPDX-License-Identifier: Apache-2.0
//
// Landlock: a second wall behind the empty root, which also stands where the root does not reach,
// at abstract sockets, signals and TCP ports.
#pragma once

#include "base/error.h"
#include "base/fd.h"

namespace mayfly::jailer {

/// From now on: no file may be opened, made, changed or executed but `program`, and read but in
/// `proc_self` (where that is valid), no TCP port used, no abstract socket of others, no signal to
/// others; as much of it as this kernel's Landlock knows. Descriptors that are open already are not
/// affected. A kernel without Landlock is no error. Needs no_new_privs.
Result<> restrict_by_landlock(FdRef program, FdRef proc_self);

}  // namespace mayfly::jailer
