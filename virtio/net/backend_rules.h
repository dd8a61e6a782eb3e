// SPDX-License-Identifier: Apache-2.0
//
// The system calls on a tap device.
#pragma once

#include "base/seccomp/rule.h"

#include <array>
#include <cstdint>

#include <asm/unistd.h>
#include <linux/if_tun.h>

namespace mayfly::virtio::net {

inline constexpr auto kBackendRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_preadv2, "frames for the guest",
                   {seccomp::equals64(3, UINT64_MAX), seccomp::equals32(5, 0)}),
    seccomp::allow(__NR_pwritev2, "frames from the guest",
                   {seccomp::equals64(3, UINT64_MAX), seccomp::equals32(5, 0)}),
    seccomp::allow(__NR_ioctl, "what the guest takes of the tap device's offloads",
                   {seccomp::equals32(1, TUNSETOFFLOAD)}),
});

/// Tap::create().
inline constexpr auto kBackendSetupRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_ioctl, "is it a tap device?", {seccomp::equals32(1, TUNGETIFF)}),
    seccomp::allow(__NR_ioctl, "the size of its headers", {seccomp::equals32(1, TUNSETVNETHDRSZ)}),
});

}  // namespace mayfly::virtio::net
