// SPDX-License-Identifier: Apache-2.0
//
// Parts of the kernel that no monitor needs, and other ways to enter it.
#include "tests/security/attempt.h"

#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <sys/fanotify.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

namespace mayfly::escape {
namespace {

Outcome load_bpf_map(World&) {
  bpf_attr attributes = {};
  attributes.map_type = BPF_MAP_TYPE_HASH;
  attributes.key_size = attributes.value_size = 4;
  attributes.max_entries = 1;
  return judge("bpf", ::syscall(SYS_bpf, BPF_MAP_CREATE, &attributes, sizeof(attributes)));
}

Outcome measure_host(World&) {
  perf_event_attr event = {};
  event.type = PERF_TYPE_SOFTWARE;
  event.size = sizeof(event);
  event.config = PERF_COUNT_SW_CONTEXT_SWITCHES;
  constexpr int kEveryProcess = -1;
  return judge("perf_event_open", ::syscall(SYS_perf_event_open, &event, kEveryProcess, 0, -1, 0));
}

Outcome measure_itself(World&) {
  perf_event_attr event = {};
  event.type = PERF_TYPE_SOFTWARE;
  event.size = sizeof(event);
  event.config = PERF_COUNT_SW_PAGE_FAULTS;
  event.exclude_kernel = event.exclude_hv = 1;
  return judge("perf_event_open", ::syscall(SYS_perf_event_open, &event, 0, -1, -1, 0));
}

Outcome add_key(World&) {
  return judge("add_key",
               ::syscall(SYS_add_key, "user", "mayfly-escapee", "x", 1, KEY_SPEC_PROCESS_KEYRING));
}
Outcome request_key(World&) {
  // "No such key" is an answer.
  const long key = ::syscall(SYS_request_key, "user", "mayfly-escapee", nullptr, 0);
  return key < 0 && errno == ENOKEY ? escaped() : judge("request_key", key);
}
Outcome join_keyring(World&) {
  return judge("keyctl", ::syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, nullptr));
}

Outcome watch_all_files(World&) {
  return judge("fanotify_init", ::syscall(SYS_fanotify_init, FAN_CLASS_CONTENT, O_RDONLY));
}
Outcome old_asynchronous_io(World&) {
  aio_context_t context = 0;
  return judge("io_setup", ::syscall(SYS_io_setup, 8, &context));
}
Outcome second_ring(World&) {
  io_uring_params params = {};
  return judge("io_uring_setup", ::syscall(SYS_io_uring_setup, 4, &params));
}
Outcome polling_ring(World&) {
  // A kernel thread that submits by itself, past the filter of io_uring_enter.
  io_uring_params params = {};
  params.flags = IORING_SETUP_SQPOLL;
  return judge("io_uring_setup", ::syscall(SYS_io_uring_setup, 4, &params));
}

Outcome kernel_version(World&) {
  utsname names = {};
  return judge("uname", ::syscall(SYS_uname, &names));
}
Outcome host_load(World&) {
  char info[128];
  return judge("sysinfo", ::syscall(SYS_sysinfo, info));
}
Outcome profile_by_timer(World&) {
  const long timer[4] = {3600, 0, 3600, 0};
  return judge("setitimer", ::syscall(SYS_setitimer, 0, timer, nullptr));
}
Outcome kernel_timer(World&) {
  sigevent event = {};
  event.sigev_notify = SIGEV_NONE;
  int timer = 0;
  return judge("timer_create", ::syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &timer));
}
Outcome barrier_on_all_cpus(World&) {
  constexpr int kGlobal = 1;
  return judge("membarrier", ::syscall(SYS_membarrier, kGlobal, 0, 0));
}
Outcome robust_list_of_daemon(World& world) {
  void* head = nullptr;
  size_t size = 0;
  return judge("get_robust_list",
               ::syscall(SYS_get_robust_list, world.targets.daemon, &head, &size));
}
Outcome replace_handler(World&) {
  const uint64_t action[4] = {};
  return judge("rt_sigaction", ::syscall(SYS_rt_sigaction, SIGUSR2, action, nullptr, 8));
}
Outcome wait_for_futex_anywhere(World&) {
  uint32_t word = 0;
  constexpr int kWakeShared = 1;  // FUTEX_WAKE without FUTEX_PRIVATE_FLAG
  return judge("futex", ::syscall(SYS_futex, &word, kWakeShared, 1, nullptr, nullptr, 0));
}

// The gate of 32-bit programs: other numbers for the same calls. 20 is getpid there, and writev in
// the numbers that a careless filter compares with.
Outcome enter_as_32_bit(World&) {
  long result = 20;
  // SAFETY: getpid takes no argument and writes nothing; what the gate changes is listed.
  asm volatile("int $0x80" : "+a"(result) : : "r8", "r9", "r10", "r11", "memory");
  errno = result < 0 ? static_cast<int>(-result) : 0;
  return judge("int 0x80", result);
}
Outcome enter_as_x32(World&) {
  constexpr long kX32 = 0x4000'0000;
  return judge("x32 getpid", ::syscall(kX32 | SYS_getpid));
}
Outcome enter_by_vsyscall(World&) {
  // SAFETY: time() of the fixed page that ancient programs call; where the host has none, this ends
  // the process.
  const auto time_call = reinterpret_cast<long (*)(long*)>(0xffff'ffff'ff60'0400);
  return judge("vsyscall time", time_call(nullptr));
}
Outcome call_with_high_bits(World&) {
  // The kernel looks at the low 32 bits of a request: a filter that does so at fewer is passed.
  int waiting = 0;
  return judge("ioctl", ::syscall(SYS_ioctl, kConsoleInput, 0xffff'ffff'0000'541b, &waiting));
}

constexpr Attempt kAttempts[] = {
    {"load-bpf-map", "code and data in the kernel", kSeccomp | kIds, load_bpf_map},
    {"measure-host", "what other processes do", kSeccomp | kIds, measure_host},
    {"measure-itself", "the kernel's measuring code", kSeccomp, measure_itself},
    {"add-key", "kernel memory that outlives calls", kSeccomp, add_key},
    {"request-key", "a program that the kernel starts", kSeccomp, request_key},
    {"join-keyring", "others' keys", kSeccomp, join_keyring},
    {"watch-all-files", "every open() of the host", kSeccomp | kIds, watch_all_files},
    {"old-asynchronous-io", "the kernel's other asynchronous I/O", kSeccomp, old_asynchronous_io},
    {"second-ring", "a ring without restrictions", kSeccomp, second_ring},
    {"polling-ring", "a ring that needs no call", kSeccomp, polling_ring},
    {"kernel-version", "which exploit to use", kSeccomp, kernel_version},
    {"host-load", "what the host does", kSeccomp, host_load},
    {"interval-timer", "the kernel's timer code", kSeccomp, profile_by_timer},
    {"kernel-timer", "the kernel's timer code", kSeccomp, kernel_timer},
    {"barrier-on-all-cpus", "an interruption of every CPU", kSeccomp, barrier_on_all_cpus},
    {"robust-list-of-daemon", "an address of the daemon", kSeccomp | kPids, robust_list_of_daemon},
    {"replace-handler", "handlers of its choice", kSeccomp, replace_handler},
    {"shared-futex", "the code for memory between processes", kSeccomp, wait_for_futex_anywhere},
    {"enter-as-32-bit", "calls whose numbers the filter does not know", kSeccomp, enter_as_32_bit},
    {"enter-as-x32", "calls whose numbers the filter does not know", kSeccomp, enter_as_x32},
    {"enter-by-vsyscall", "calls that no instruction makes", kSeccomp, enter_by_vsyscall},
    {"call-with-high-bits", "a request that the filter takes for another", kSeccomp,
     call_with_high_bits},
};

}  // namespace

std::span<const Attempt> kernel_attempts() { return kAttempts; }

}  // namespace mayfly::escape
