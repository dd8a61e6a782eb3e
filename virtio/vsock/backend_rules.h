// SPDX-License-Identifier: Apache-2.0
//
// The system calls on the sockets that the host's programs hold the other ends of.
#pragma once

#include "base/seccomp/rule.h"

#include <array>

#include <asm/unistd.h>
#include <sys/socket.h>

namespace mayfly::virtio::vsock {

inline constexpr auto kBackendRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_recvmsg, "bytes for the guest",
                   {seccomp::equals32(2, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)}),
    seccomp::allow(__NR_sendmsg, "bytes from the guest",
                   {seccomp::equals32(2, MSG_DONTWAIT | MSG_NOSIGNAL)}),
    seccomp::allow(__NR_shutdown, "the guest sends no more", {seccomp::equals32(1, SHUT_WR)}),
    seccomp::allow(__NR_shutdown, "the guest takes no more", {seccomp::equals32(1, SHUT_RD)}),
    seccomp::allow(__NR_getsockopt, "check_stream_socket(): its type",
                   {seccomp::equals32(1, SOL_SOCKET), seccomp::equals32(2, SO_TYPE)}),
});

}  // namespace mayfly::virtio::vsock
