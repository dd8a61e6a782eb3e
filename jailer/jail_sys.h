// SPDX-License-Identifier: Apache-2.0
//
// The steps of the jail, each one mechanism. Called in this order, once, by a process with one
// thread that becomes the program at the end. An Error leaves the process half jailed: it must
// exit.
#pragma once

#include "base/error.h"
#include "jailer/jail_spec.h"

#include <span>

namespace mayfly::jailer {

/// Closes every descriptor but 0 to 2 and `kept`; `exec_fd` closes by itself at enter().
Result<> close_other_descriptors(const JailSpec& spec);

/// No core files: they would hold a guest's memory.
Result<> limit_resources();

/// No set-uid program or file capability gives anything back.
Result<> forbid_new_privileges();

/// Becomes the program, with an empty environment. Returns only on failure.
std::unexpected<Error> enter(const JailSpec& spec);

}  // namespace mayfly::jailer
