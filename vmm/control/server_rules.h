// SPDX-License-Identifier: Apache-2.0
//
// The system calls that serve the control socket.
#pragma once

#include "base/seccomp/rule.h"

#include <array>

#include <asm/unistd.h>
#include <sys/socket.h>

namespace mayfly::vmm {

inline constexpr auto kServerRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_accept4, "the daemon's connection; who it is is not asked",
                   {seccomp::equals64(1, 0), seccomp::equals64(2, 0),
                    seccomp::equals32(3, SOCK_CLOEXEC | SOCK_NONBLOCK)}),
    seccomp::allow(__NR_recvmsg, "requests and their descriptors",
                   {seccomp::equals32(2, MSG_CMSG_CLOEXEC)}),
    seccomp::allow(
        __NR_sendto, "replies: send(), so to no address",
        {seccomp::equals32(3, MSG_NOSIGNAL), seccomp::equals64(4, 0), seccomp::equals32(5, 0)}),
    seccomp::allow(__NR_sendmsg, "the reply that guest RAM's descriptor goes with",
                   {seccomp::equals32(2, MSG_NOSIGNAL)}),
});

}  // namespace mayfly::vmm
