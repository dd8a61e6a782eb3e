// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/seccomp/rule.h"

#include <array>

#include <asm/unistd.h>
#include <sys/random.h>

namespace mayfly::virtio::rng {

/// KernelEntropy.
inline constexpr auto kBackendRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_getrandom, "entropy for the guest", {seccomp::equals32(2, GRND_NONBLOCK)}),
});

}  // namespace mayfly::virtio::rng
