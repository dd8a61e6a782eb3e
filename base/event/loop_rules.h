// SPDX-License-Identifier: Apache-2.0
//
// The system calls of the event loop once its ring is restricted and enabled.
#pragma once

#include "base/seccomp/rule.h"

#include <array>

#include <asm/unistd.h>
#include <linux/io_uring.h>

namespace mayfly {

inline constexpr auto kLoopRules = std::to_array<seccomp::Rule>({
    // Without conditions, so that the kernel's table of calls that always pass answers for it.
    seccomp::allow(__NR_io_uring_enter, "submit and wait; what the ring may do it limits itself"),
    seccomp::allow(__NR_io_uring_register, "add_file(), remove_file()",
                   {seccomp::equals32(1, IORING_REGISTER_FILES_UPDATE)}),
});

}  // namespace mayfly
