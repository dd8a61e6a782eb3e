// SPDX-License-Identifier: Apache-2.0
//
// The system calls that write a saved machine's files.
#pragma once

#include "base/seccomp/rule.h"

#include <array>

#include <asm/unistd.h>
#include <unistd.h>

namespace mayfly {

inline constexpr auto kSaveFileRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_lseek, "how long is a file?",
                   {seccomp::equals64(1, 0), seccomp::equals32(2, SEEK_END)}),
    seccomp::allow(__NR_pread64, "pagemap: which pages are private"),
    seccomp::allow(__NR_pwritev,
                   "the state; changed pages, straight from guest RAM, and which they are"),
});

}  // namespace mayfly
