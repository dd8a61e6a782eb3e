// SPDX-License-Identifier: Apache-2.0
#include "daemon/process_sys.h"

#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

constexpr int kFirstInherited = 3;

/// posix_spawn's two attribute objects, destroyed together.
struct SpawnObjects {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  SpawnObjects() {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
  }
  ~SpawnObjects() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }
  SpawnObjects(const SpawnObjects&) = delete;
  SpawnObjects& operator=(const SpawnObjects&) = delete;
};

void set_attributes(posix_spawnattr_t& attributes) {
  sigset_t none;
  sigset_t all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
}

Result<ProcessEnd> wait_id(FdRef pidfd, int options) {
  siginfo_t info = {};
  for (;;) {
    if (::waitid(P_PIDFD, static_cast<id_t>(pidfd.number()), &info, WEXITED | options) == 0) break;
    if (errno != EINTR) return fail_errno({Code::kInternal, "WAITID"}, errno, "waitid");
  }
  if (info.si_pid == 0)
    return fail({Code::kUnavailable, "STILL_RUNNING"}, "the process still runs");
  if (info.si_code == CLD_EXITED) return ProcessEnd{.signal = 0, .exit_status = info.si_status};
  return ProcessEnd{.signal = info.si_status, .exit_status = 0};
}

}  // namespace

Result<Process> spawn(const SpawnPlan& plan) {
  // The child's own numbers must not be overwritten by one another: sources are moved above all
  // targets first.
  std::vector<Fd> sources;
  const int above = kFirstInherited + static_cast<int>(plan.inherited.size());
  for (const FdRef fd : plan.inherited) {
    Fd moved(::fcntl(fd.number(), F_DUPFD_CLOEXEC, above));
    if (!moved.valid())
      return fail_errno({Code::kResourceExhausted, "DUP"}, errno, "duplicate for a child");
    sources.push_back(std::move(moved));
  }
  SpawnObjects objects;
  posix_spawn_file_actions_t* actions = &objects.actions;
  if (plan.standard_error.valid()) {
    posix_spawn_file_actions_adddup2(actions, plan.standard_error.number(), STDERR_FILENO);
  }
  posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  for (size_t i = 0; i < sources.size(); ++i) {
    posix_spawn_file_actions_adddup2(actions, sources[i].number(),
                                     kFirstInherited + static_cast<int>(i));
  }
  posix_spawn_file_actions_addclosefrom_np(actions, above);
  set_attributes(objects.attributes);

  // SAFETY: posix_spawn takes argv as char* for C's sake and writes to none of it.
  std::vector<char*> argv = {const_cast<char*>(plan.program.c_str())};
  for (const std::string& argument : plan.arguments)
    argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  Process process;
  const int error = ::posix_spawn(&process.pid, plan.program.c_str(), actions, &objects.attributes,
                                  argv.data(), environ);
  if (error != 0) {
    return fail_errno({Code::kFailedPrecondition, "SPAWN_FAILED"}, error, "start %s",
                      plan.program.c_str());
  }
  // Nobody but us reaps our children, so the number still means this one.
  process.pidfd = Fd(static_cast<int>(::syscall(SYS_pidfd_open, process.pid, 0)));
  if (!process.pidfd.valid()) {
    const int os_errno = errno;
    ::kill(process.pid, SIGKILL);
    ::waitpid(process.pid, nullptr, 0);
    return fail_errno({Code::kResourceExhausted, "PIDFD"}, os_errno, "pidfd_open");
  }
  return process;
}

Result<ProcessEnd> reap(FdRef pidfd) { return wait_id(pidfd, WNOHANG); }

Result<ProcessEnd> wait_and_reap(FdRef pidfd, int timeout_ms) {
  pollfd entry = {.fd = pidfd.number(), .events = POLLIN, .revents = 0};
  const int ready = ::poll(&entry, 1, timeout_ms);
  if (ready == 0) return fail({Code::kDeadlineExceeded, "STILL_RUNNING"}, "the process still runs");
  return wait_id(pidfd, 0);
}

void send_signal(FdRef pidfd, int signal) {
  ::syscall(SYS_pidfd_send_signal, pidfd.number(), signal, nullptr, 0);
}

}  // namespace mayfly::daemon
