// SPDX-License-Identifier: Apache-2.0
//
// The system calls that have a kernel map touched pages one by one.
#pragma once

#include "base/seccomp/rule.h"

#include <array>

#include <asm/unistd.h>
#include <linux/userfaultfd.h>
#include <sys/mman.h>

namespace mayfly {

inline constexpr auto kTouchedPagesRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_madvise, "no huge pages where touched pages are recorded",
                   {seccomp::equals32(2, MADV_NOHUGEPAGE)}),
    seccomp::allow(__NR_ioctl, "/dev/userfaultfd: a userfaultfd that handles no fault",
                   {seccomp::equals32(1, USERFAULTFD_IOC_NEW)}),
    seccomp::allow(__NR_ioctl, "touched pages are recorded", {seccomp::equals32(1, UFFDIO_API)}),
    seccomp::allow(__NR_ioctl, "touched pages are recorded",
                   {seccomp::equals32(1, UFFDIO_REGISTER)}),
});

}  // namespace mayfly
