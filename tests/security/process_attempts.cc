// SPDX-License-Identifier: Apache-2.0
#include "tests/security/attempt.h"

#include <array>
#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/sched.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::escape {
namespace {

// Delivered for real, and ignored by who does not wait for it.
constexpr int kHarmlessSignal = SIGURG;

Outcome trace(pid_t process) {
  return judge("ptrace", ::syscall(SYS_ptrace, PTRACE_SEIZE, process, 0, 0));
}
Outcome trace_daemon(World& world) { return trace(world.targets.daemon); }
Outcome trace_neighbour(World& world) { return trace(world.targets.neighbour); }

Outcome read_daemon_memory(World& world) {
  std::array<char, kSecret.size()> read = {};
  iovec ours = {read.data(), read.size()};
  // SAFETY: an address of another process.
  iovec theirs = {reinterpret_cast<void*>(world.targets.daemon_secret), read.size()};
  const long size = ::syscall(SYS_process_vm_readv, world.targets.daemon, &ours, 1, &theirs, 1, 0);
  if (size < 0) return judge("process_vm_readv", -1);
  return read == kSecret ? escaped() : refused("process_vm_readv", 0);
}

Outcome write_daemon_memory(World& world) {
  std::array<char, kSecret.size()> bytes = kSecret;
  iovec ours = {bytes.data(), bytes.size()};
  // SAFETY: as above.
  iovec theirs = {reinterpret_cast<void*>(world.targets.daemon_secret), bytes.size()};
  return judge("process_vm_writev",
               ::syscall(SYS_process_vm_writev, world.targets.daemon, &ours, 1, &theirs, 1, 0));
}

Outcome signal_daemon(World& world) {
  return judge("kill", ::syscall(SYS_kill, world.targets.daemon, kHarmlessSignal));
}
Outcome signal_neighbour(World& world) {
  return judge("kill", ::syscall(SYS_kill, world.targets.neighbour, kHarmlessSignal));
}
// Signal 0 only asks whether there is anyone that may be signalled.
Outcome signal_everyone(World&) { return judge("kill", ::syscall(SYS_kill, -1, 0)); }

Outcome signal_daemon_thread(World& world) {
  const pid_t daemon = world.targets.daemon;
  return judge("tgkill", ::syscall(SYS_tgkill, daemon, daemon, kHarmlessSignal));
}

Outcome queue_signal(World& world) {
  siginfo_t info = {};
  info.si_code = SI_QUEUE;
  return judge("rt_sigqueueinfo",
               ::syscall(SYS_rt_sigqueueinfo, world.targets.daemon, kHarmlessSignal, &info));
}

long open_daemon(World& world) { return ::syscall(SYS_pidfd_open, world.targets.daemon, 0); }

Outcome signal_daemon_by_pidfd(World& world) {
  const long daemon = open_daemon(world);
  if (daemon < 0) return judge("pidfd_open", -1);
  return judge("pidfd_send_signal",
               ::syscall(SYS_pidfd_send_signal, daemon, kHarmlessSignal, nullptr, 0));
}

Outcome take_daemon_descriptor(World& world) {
  const long daemon = open_daemon(world);
  if (daemon < 0) return judge("pidfd_open", -1);
  return judge("pidfd_getfd", ::syscall(SYS_pidfd_getfd, daemon, 0, 0));
}

Outcome advise_daemon_memory(World& world) {
  const long daemon = open_daemon(world);
  if (daemon < 0) return judge("pidfd_open", -1);
  // SAFETY: as above.
  iovec part = {reinterpret_cast<void*>(world.targets.daemon_secret & ~uint64_t{4095}), 4096};
  return judge("process_madvise", ::syscall(SYS_process_madvise, daemon, &part, 1, MADV_COLD, 0));
}

Outcome compare_with_daemon(World& world) {
  return judge("kcmp",
               ::syscall(SYS_kcmp, world.targets.daemon, world.targets.daemon, KCMP_VM, 0, 0));
}

Outcome limit_daemon(World& world) {
  rlimit limit = {};
  if (::syscall(SYS_prlimit64, world.targets.daemon, RLIMIT_NOFILE, nullptr, &limit) < 0) {
    return judge("prlimit64", -1);
  }
  return judge("prlimit64",
               ::syscall(SYS_prlimit64, world.targets.daemon, RLIMIT_NOFILE, &limit, nullptr));
}

Outcome slow_daemon(World& world) {
  return judge("setpriority", ::syscall(SYS_setpriority, PRIO_PROCESS, world.targets.daemon, 10));
}

Outcome pin_daemon(World& world) {
  cpu_set_t cpus = {};
  if (::syscall(SYS_sched_getaffinity, world.targets.daemon, sizeof(cpus), &cpus) < 0) {
    return judge("sched_getaffinity", -1);
  }
  return judge("sched_setaffinity",
               ::syscall(SYS_sched_setaffinity, world.targets.daemon, sizeof(cpus), &cpus));
}

// The kernel then signals whom a descriptor's owner is.
Outcome signal_by_descriptor_owner(World& world) {
  return judge("fcntl F_SETOWN",
               ::syscall(SYS_fcntl, kConsoleInput, F_SETOWN, world.targets.daemon));
}

Outcome end_child(const char* call, long child) {
  if (child < 0) return judge(call, -1);
  if (child == 0) {
    ::syscall(SYS_exit_group, 0);
    __builtin_trap();
  }
  return judge("wait4", ::syscall(SYS_wait4, child, nullptr, __WALL, nullptr));
}

Outcome fork_plainly(World&) { return end_child("fork", ::syscall(SYS_fork)); }
Outcome fork_by_clone(World&) {
  return end_child("clone", ::syscall(SYS_clone, SIGCHLD, nullptr, nullptr, nullptr, 0));
}
Outcome fork_by_clone3(World&) {
  clone_args arguments = {};
  arguments.exit_signal = SIGCHLD;
  const long child = ::syscall(SYS_clone3, &arguments, sizeof(arguments));
  // The filters answer so, that the C library falls back to the call whose flags they can see.
  if (child < 0 && errno == ENOSYS) return refused("clone3", ENOSYS);
  return end_child("clone3", child);
}

// A stack, and where the thread's C library would keep its own.
alignas(4096) std::array<char, 16384> thread_stack;
alignas(4096) std::array<char, 8192> thread_storage;
pid_t thread_ids[2];

// It cannot even end: no thread of a monitor does before the process.
int thread_main(void*) {
  while (true) __builtin_ia32_pause();
}

// With the very flags of pthread_create(), which the start's filter lets pass.
Outcome start_thread(World&) {
  constexpr int kFlags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                         CLONE_SYSVSEM | CLONE_SETTLS | CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID;
  return judge("clone",
               ::clone(thread_main, thread_stack.data() + thread_stack.size(), kFlags, nullptr,
                       &thread_ids[0], thread_storage.data() + 4096, &thread_ids[1]));
}

constexpr Attempt kAttempts[] = {
    {"trace-daemon", "controls the daemon", kSeccomp | kPids | kIds, trace_daemon},
    {"trace-neighbour", "controls another VM's monitor", kSeccomp | kPids, trace_neighbour},
    {"read-daemon-memory", "the daemon's secrets", kSeccomp | kPids | kIds, read_daemon_memory},
    {"write-daemon-memory", "controls the daemon", kSeccomp | kPids | kIds, write_daemon_memory},
    {"signal-daemon", "ends the daemon", kSeccomp | kPids, signal_daemon},
    {"signal-neighbour", "ends another VM", kSeccomp | kPids, signal_neighbour},
    {"signal-everyone", "ends whatever it may", kSeccomp | kPids, signal_everyone},
    {"signal-daemon-thread", "ends the daemon", kSeccomp | kPids, signal_daemon_thread},
    {"queue-signal", "a signal with a made-up sender", kSeccomp | kPids, queue_signal},
    {"signal-daemon-by-pidfd", "ends the daemon", kSeccomp | kPids, signal_daemon_by_pidfd},
    {"take-daemon-descriptor", "a descriptor of the daemon", kSeccomp | kPids | kIds,
     take_daemon_descriptor},
    {"advise-daemon-memory", "pages the daemon out", kSeccomp | kPids, advise_daemon_memory},
    {"compare-with-daemon", "addresses inside the kernel", kSeccomp | kPids, compare_with_daemon},
    {"limit-daemon", "the daemon opens no more files", kSeccomp | kPids, limit_daemon},
    {"slow-daemon", "the daemon gets less time", kSeccomp | kPids, slow_daemon},
    {"pin-daemon", "the daemon gets one CPU", kSeccomp | kPids, pin_daemon},
    {"signal-by-descriptor-owner", "the kernel signals the daemon", kSeccomp | kPids,
     signal_by_descriptor_owner},
    {"fork", "another process", kSeccomp, fork_plainly},
    {"fork-by-clone", "another process", kSeccomp, fork_by_clone},
    {"fork-by-clone3", "another process, by flags no filter sees", kSeccomp, fork_by_clone3},
    {"start-thread", "a thread that is no vCPU's", kSeccomp | kBeforeRun, start_thread},
};

}  // namespace

std::span<const Attempt> process_attempts() { return kAttempts; }

}  // namespace mayfly::escape
