// SPDX-License-Identifier: Apache-2.0
//
// The system calls that load kernels and initrds, beside base/fd_rules.h.
#pragma once

#include "base/seccomp/rule.h"

#include <array>

#include <asm/unistd.h>

namespace mayfly::boot {

inline constexpr auto kImageFileRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_preadv, "kernel and initrds, straight into guest RAM"),
});

}  // namespace mayfly::boot
