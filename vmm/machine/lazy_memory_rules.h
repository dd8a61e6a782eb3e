// SPDX-License-Identifier: Apache-2.0
//
// The system calls of guest RAM that somebody else fills.
#pragma once

#include "base/seccomp/rule.h"

#include <array>

#include <asm/unistd.h>
#include <linux/userfaultfd.h>
#include <sys/mman.h>

namespace mayfly {

/// Making the userfaultfd. No request that does anything with one has a rule.
inline constexpr auto kUserfaultRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_ioctl, "/dev/userfaultfd: a userfaultfd, to give away",
                   {seccomp::equals32(1, USERFAULTFD_IOC_NEW)}),
});

/// The guard's thread, to its end.
inline constexpr auto kGuardRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_read,
                   "wait for the word that no memory is missing, or for its source's end"),
    seccomp::allow(__NR_madvise, "a thread's end: its stack's pages go back",
                   {seccomp::equals32(2, MADV_DONTNEED)}),
    seccomp::allow(__NR_exit, "a thread's end"),
});

}  // namespace mayfly
