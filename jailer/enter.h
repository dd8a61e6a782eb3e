// SPDX-License-Identifier: Apache-2.0
//
// The last steps: nothing comes back, and the program.
#pragma once

#include "base/error.h"
#include "jailer/jail_spec.h"

namespace mayfly::jailer {

/// No set-uid program or file capability gives anything back.
Result<> forbid_new_privileges();

/// Becomes the program, with an empty environment. Returns only on failure.
std::unexpected<Error> enter(const JailSpec& spec);

}  // namespace mayfly::jailer
