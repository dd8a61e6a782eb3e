// SPDX-License-Identifier: Apache-2.0
//
// The system calls of base/fd.h that its users in the monitor make.
#pragma once

#include "base/seccomp/rule.h"

#include <array>

#include <asm/unistd.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/eventfd.h>

namespace mayfly {

/// The kernel's O_LARGEFILE, which every 64-bit open() sets and glibc calls 0.
inline constexpr unsigned kKernelLargeFile = 0100000;

/// signal_event(), log() and write_all().
inline constexpr auto kFdWriteRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_write, "wake another thread, signal console output, log, report the end"),
});

inline constexpr auto kFdCloseRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_close, "descriptors that came with a message or served a connection"),
});

/// What checks and prepares descriptors that have just arrived.
inline constexpr auto kFdSetupRules = std::to_array<seccomp::Rule>({
    // A path instead of "" would pass too, for who cannot look behind pointers: it would tell that
    // a file exists, in a root directory that has none.
    seccomp::allow(__NR_newfstatat, "file_size(): fstat()", {seccomp::equals32(3, AT_EMPTY_PATH)}),
    seccomp::allow(__NR_ioctl, "file_size() of a block device",
                   {seccomp::equals32(1, BLKGETSIZE64)}),
    seccomp::allow(__NR_eventfd2, "Fd::event()",
                   {seccomp::equals32(1, EFD_CLOEXEC | EFD_NONBLOCK)}),
    seccomp::allow(__NR_fcntl, "set_nonblocking(), and how a disk was opened",
                   {seccomp::equals32(1, F_GETFL)}),
    seccomp::allow(__NR_fcntl, "set_nonblocking(), which changes no other flag",
                   {seccomp::equals32(1, F_SETFL),
                    seccomp::masked32(2, ~(O_ACCMODE | kKernelLargeFile), O_NONBLOCK)}),
    seccomp::allow(__NR_pread64, "pread_exact(): a kernel's headers"),
});

}  // namespace mayfly
