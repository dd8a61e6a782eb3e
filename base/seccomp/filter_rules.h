// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/seccomp/rule.h"

#include <array>

#include <asm/unistd.h>
#include <linux/seccomp.h>

namespace mayfly::seccomp {

/// install(), under a filter that is there already.
inline constexpr auto kInstallRules = std::to_array<Rule>({
    allow(__NR_seccomp, "stack a stricter filter on this one",
          {equals32(0, SECCOMP_SET_MODE_FILTER), equals32(1, 0)}),
});

}  // namespace mayfly::seccomp
