// SPDX-License-Identifier: Apache-2.0
//
// The last step: the program.
#pragma once

#include "base/error.h"
#include "jailer/jail_spec.h"

namespace mayfly::jailer {

/// Becomes the program, with an empty environment. Returns only on failure.
std::unexpected<Error> enter(const JailSpec& spec);

}  // namespace mayfly::jailer
