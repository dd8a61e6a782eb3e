// SPDX-License-Identifier: Apache-2.0
//
// What glibc calls on its own account in a program that has set malloc to one arena on brk() (see
// vmm/main.cc), and what it calls to end a process that has a bug.
#pragma once

#include "base/seccomp/rule.h"

#include <array>
#include <csignal>
#include <ctime>

#include <asm/unistd.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

namespace mayfly::seccomp {

/// Any thread, at any time.
inline constexpr auto kThreadRules = std::to_array<Rule>({
    allow(__NR_futex, "std::mutex: wait for its holder",
          {equals32(1, FUTEX_WAIT | FUTEX_PRIVATE_FLAG)}),
    allow(__NR_futex, "std::mutex and std::condition_variable: wake those that wait",
          {equals32(1, FUTEX_WAKE | FUTEX_PRIVATE_FLAG)}),
    allow(__NR_futex, "std::condition_variable: wait",
          {equals32(1, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME)}),
    allow(__NR_brk, "malloc: grow and trim its one arena"),
    allow(__NR_clock_gettime, "clock_gettime() where the vDSO cannot read the host's clock source",
          {equals32(0, CLOCK_MONOTONIC)}),
});

/// Any thread whose program has a bug: a failed CHECK, a stack smashed, a heap found broken. The
/// process then has to end by itself and with its message, not as if it had been attacked.
inline constexpr auto kAbortRules = std::to_array<Rule>({
    allow(__NR_writev, "glibc's last words", {equals32(0, STDERR_FILENO)}),
    allow(__NR_mmap, "where glibc keeps a copy of its last words",
          {equals64(2, PROT_READ | PROT_WRITE), equals64(3, MAP_PRIVATE | MAP_ANONYMOUS)}),
    allow(__NR_rt_sigprocmask, "abort() and pthread_kill() hold signals off"),
    allow(__NR_gettid, "abort() names its thread"),
    allow(__NR_getpid, "abort() and pthread_kill() name their process"),
    allow(__NR_tgkill, "abort()", {own_pid(0), equals32(2, SIGABRT)}),
    allow(__NR_rt_sigaction,
          "abort() in a process that had survived the signal: the first of its "
          "pid namespace",
          {equals32(0, SIGABRT)}),
});

/// A thread that starts others, and each of those until it runs our code.
inline constexpr auto kStartThreadRules = std::to_array<Rule>({
    allow(__NR_mmap, "a thread's stack and its guard page",
          {equals64(2, PROT_NONE), equals64(3, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK)}),
    allow(__NR_mprotect, "a thread's stack, but the guard page, becomes usable",
          {equals64(2, PROT_READ | PROT_WRITE)}),
    // The flags of clone3 are behind a pointer, where no filter can see them.
    no_such_call(__NR_clone3, "makes pthread_create() use clone, whose flags can be checked"),
    allow(__NR_clone, "pthread_create(): a thread, and nothing but a thread",
          {equals64(0, CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                           CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID |
                           CLONE_CHILD_CLEARTID)}),
    allow(__NR_rt_sigaction, "the first pthread_create() prepares setuid() for all threads",
          {equals32(0, 33 /* glibc's SIGSETXID */)}),
    allow(__NR_set_robust_list, "a thread's first steps"),
    allow(__NR_rseq, "a thread's first steps", {equals32(2, 0)}),
});

}  // namespace mayfly::seccomp
