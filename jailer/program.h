// SPDX-License-Identifier: Apache-2.0
//
// May this file be run as one of our programs?
//
// Programs are executed by descriptor, so no path is looked up after the daemon opened it: nothing
// that renames, links or replaces names afterwards changes what runs, and nothing is ever copied or
// linked into a jail. What is left is the file itself. It may be set-uid, and it may be open to
// writing by others, under the name the daemon knows or under another one: a hard link in a place
// where nobody looks.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "jailer/jail_mode.h"

namespace mayfly::jailer {

/// `what` names the file in errors. `runs_as_other`: it is executed with an id that is neither
/// ours nor the file's owner's, so it must be executable by everyone.
///
/// Refused in every mode: what is no regular file, empty, not executable, set-uid or set-gid. With
/// kRoot also what everyone may write, and what has several names (hard links) and belongs to, or
/// may be written by, others than root and us.
Result<> check_program(const char* what, FdRef program, JailMode mode, bool runs_as_other);

}  // namespace mayfly::jailer
