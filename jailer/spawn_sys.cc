// SPDX-License-Identifier: Apache-2.0
#include "jailer/spawn_sys.h"

#include "base/error.h"
#include "jailer/clone3_x86_sys.h"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// What runs in the child shares the caller's shadow memory with it, and never returns.
#define IN_CHILD __attribute__((no_sanitize("address", "thread", "undefined")))

namespace mayfly::jailer {
namespace {

constexpr size_t kStackBytes = 16 * 1024;
constexpr int kChildFailed = 127;
constexpr int kSignals = 64;

/// The kernel's struct sigaction on x86-64, which libc's is not.
struct KernelSigaction {
  uint64_t handler;
  uint64_t flags;
  uint64_t restorer;
  uint64_t mask;
};
static_assert(sizeof(KernelSigaction) == 32);

// What the jailer does with them: namespaces, mounts, host name; a mount namespace's root; the
// bounding set.
constexpr uint32_t kJailerCapabilities =
    1u << CAP_SYS_ADMIN | 1u << CAP_SYS_CHROOT | 1u << CAP_SETPCAP;
constexpr int kJailerCapabilityNumbers[] = {CAP_SYS_ADMIN, CAP_SYS_CHROOT, CAP_SETPCAP};

/// Written by the parent before the clone and by the child after it: never by both at once.
struct Child {
  int sources[kMaxSpawnDescriptors + 3] = {};  // of 0, 1, 2, 3, ...; -1: leave it
  int count = 0;
  int program = -1;
  bool keep_capabilities = false;
  const char* const* arguments = nullptr;
  SpawnFailure failure = {SpawnStep::kClone, 0};
};

// System calls are made directly: what libc wraps around some of them (cancellation, locks) belongs
// to a thread, and the child is not the thread whose memory it runs in.
[[noreturn]] IN_CHILD void give_up(Child& child, SpawnStep step) {
  child.failure = {step, errno};
  for (;;) ::syscall(SYS_exit_group, kChildFailed);
}

// Above all targets, so that placing another one does not overwrite it.
IN_CHILD void move_up(Child& child, int& descriptor) {
  if (descriptor < 0 || descriptor >= child.count) return;
  descriptor = static_cast<int>(::syscall(SYS_fcntl, descriptor, F_DUPFD_CLOEXEC, child.count));
  if (descriptor < 0) give_up(child, SpawnStep::kDescriptors);
}

IN_CHILD void place_descriptors(Child& child) {
  for (int i = 0; i < child.count; ++i) move_up(child, child.sources[i]);
  move_up(child, child.program);
  for (int i = 0; i < child.count; ++i) {
    const int source = child.sources[i];
    if (source >= 0 && ::syscall(SYS_dup3, source, i, 0) < 0) {
      give_up(child, SpawnStep::kDescriptors);
    }
  }
}

IN_CHILD void reset_signals(Child& child) {
  // CLONE_CLEAR_SIGHAND has reset all that had handlers, but what is ignored stays so over an exec:
  // SIGPIPE in the daemon, and whatever its own parent ignored (nohup, a shell's background job).
  const KernelSigaction by_default = {};
  for (int signal = 1; signal <= kSignals; ++signal) {
    if (signal == SIGKILL || signal == SIGSTOP) continue;
    // SAFETY: the kernel reads one KernelSigaction.
    if (::syscall(SYS_rt_sigaction, signal, &by_default, nullptr, sizeof(by_default.mask)) != 0) {
      give_up(child, SpawnStep::kSignals);
    }
  }
}

IN_CHILD void keep_capabilities(Child& child) {
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  // Both halves of a set are one capability word each; ours are all in the first.
  __user_cap_data_struct sets[2] = {};
  sets[0] = {.effective = kJailerCapabilities,
             .permitted = kJailerCapabilities,
             .inheritable = kJailerCapabilities};
  // SAFETY: the kernel reads one header and two data words, as version 3 says.
  if (::syscall(SYS_capset, &header, sets) != 0) give_up(child, SpawnStep::kCapabilities);
  for (const int capability : kJailerCapabilityNumbers) {
    if (::syscall(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) != 0) {
      give_up(child, SpawnStep::kCapabilities);
    }
  }
}

IN_CHILD void run_child(void* argument) {
  Child& child = *static_cast<Child*>(argument);
  // A session of its own also takes the terminal away, and with it TIOCSTI.
  if (::syscall(SYS_setsid) < 0) give_up(child, SpawnStep::kSession);
  place_descriptors(child);
  reset_signals(child);
  if (child.keep_capabilities) keep_capabilities(child);
  // No handler of the daemon's is left that could run here.
  const uint64_t no_signals = 0;
  if (::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &no_signals, nullptr, sizeof(no_signals)) != 0) {
    give_up(child, SpawnStep::kSignals);
  }
  const char* const no_environment[] = {nullptr};
  ::syscall(SYS_execveat, child.program, "", child.arguments, no_environment, AT_EMPTY_PATH);
  give_up(child, SpawnStep::kExec);
}

/// All signals blocked for the calling thread, glibc's own (32, 33) too: a handler, or the
/// cancellation of this thread, must not run in the child.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    const uint64_t all = ~uint64_t{0};
    // SAFETY: a signal set is one 64-bit word to the kernel.
    ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before_, sizeof(all));
  }
  ~SignalsBlocked() {
    ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before_, nullptr, sizeof(before_));
  }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  uint64_t before_ = 0;
};

uint64_t address_of(const void* pointer) {
  // SAFETY: only the kernel uses the number, as the address it was.
  return reinterpret_cast<uintptr_t>(pointer);
}

Child prepare(const Spawn& plan, const std::vector<const char*>& arguments) {
  Child child;
  for (const FdRef fd : plan.standard) {
    child.sources[child.count++] = fd.number();
  }
  for (const FdRef fd : plan.inherited) {
    child.sources[child.count++] = fd.number();
  }
  child.program = plan.program.number();
  child.keep_capabilities = plan.keep_capabilities;
  child.arguments = arguments.data();
  return child;
}

}  // namespace

std::expected<Spawned, SpawnFailure> spawn(const Spawn& plan) {
  CHECK(plan.inherited.size() <= kMaxSpawnDescriptors);
  std::vector<const char*> arguments = plan.arguments;
  arguments.push_back(nullptr);
  Child child = prepare(plan, arguments);
  alignas(16) std::array<std::byte, kStackBytes> stack;
  int pidfd = -1;
  clone_args how = {};
  // CLONE_VFORK: this thread sleeps until the child has executed or ended, so all that the child
  // uses is still there.
  how.flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | plan.namespaces;
  how.pidfd = address_of(&pidfd);
  how.exit_signal = SIGCHLD;
  how.stack = address_of(stack.data());
  how.stack_size = stack.size();
  if (plan.cgroup.valid()) {
    how.flags |= CLONE_INTO_CGROUP;
    how.cgroup = static_cast<uint64_t>(plan.cgroup.number());
  }
  long pid = 0;
  {
    const SignalsBlocked blocked;
    pid = clone3_onto_stack(how, run_child, &child);
  }
  if (pid < 0) return std::unexpected(SpawnFailure{SpawnStep::kClone, static_cast<int>(-pid)});
  Fd owned(pidfd);
  if (child.failure.os_errno != 0) {
    siginfo_t end = {};
    while (::waitid(P_PIDFD, static_cast<id_t>(pidfd), &end, WEXITED) != 0 && errno == EINTR) {
    }
    return std::unexpected(child.failure);
  }
  return Spawned{.pid = static_cast<pid_t>(pid), .pidfd = std::move(owned)};
}

}  // namespace mayfly::jailer
