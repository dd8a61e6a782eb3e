// SPDX-License-Identifier: Apache-2.0
//
// The system calls that map guest RAM.
#pragma once

#include "base/seccomp/rule.h"

#include <array>

#include <asm/unistd.h>
#include <sys/mman.h>

namespace mayfly {

inline constexpr auto kGuestMemoryRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_mmap, "the reservation of the guest's address range",
                   {seccomp::equals64(2, PROT_NONE),
                    seccomp::equals64(3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)}),
    seccomp::allow(__NR_mmap, "guest RAM, over its reservation",
                   {seccomp::equals64(2, PROT_READ | PROT_WRITE),
                    seccomp::equals64(3, MAP_SHARED | MAP_FIXED)}),
    seccomp::allow(__NR_madvise, "huge pages for guest RAM", {seccomp::equals32(2, MADV_HUGEPAGE)}),
    seccomp::allow(__NR_mmap, "chunks of guest RAM that are copied, over its private mapping",
                   {seccomp::equals64(2, PROT_READ | PROT_WRITE),
                    seccomp::equals64(3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED)}),
    seccomp::allow(__NR_munmap, "the slack around the reservation; all of it when a start fails"),
});

inline constexpr auto kPrivateMemoryRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_mmap, "guest RAM as a private mapping, over its reservation or itself",
                   {seccomp::equals64(2, PROT_READ | PROT_WRITE),
                    seccomp::equals64(3, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED)}),
});

inline constexpr auto kReleaseMemoryRules = std::to_array<seccomp::Rule>({
    seccomp::allow(__NR_madvise, "pages of shared guest RAM that the guest does without",
                   {seccomp::equals32(2, MADV_REMOVE)}),
    seccomp::allow(__NR_madvise, "pages of private guest RAM that the guest does without",
                   {seccomp::equals32(2, MADV_DONTNEED)}),
});

}  // namespace mayfly
