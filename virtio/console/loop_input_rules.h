// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/seccomp/rule.h"

#include <array>

#include <asm/unistd.h>

namespace mayfly::virtio::console {

/// LoopInput once it is created.
inline constexpr auto kLoopInputRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_read, "console input"),
});

}  // namespace mayfly::virtio::console
