// SPDX-License-Identifier: Apache-2.0
//
// System calls by name, for people: what libseccomp knew when this was built. The monitor reports
// numbers; whoever shows them links this.
#pragma once

#include <cstdint>

namespace mayfly::seccomp {

/// "openat"; "unknown" for a number that is none. This architecture's numbers.
const char* syscall_name(uint32_t number);

}  // namespace mayfly::seccomp
