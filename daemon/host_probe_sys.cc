// SPDX-License-Identifier: Apache-2.0
#include "daemon/host_probe_sys.h"

#include "base/fd.h"

#include <cerrno>

#include <linux/io_uring.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::daemon {

int try_io_uring() {
  io_uring_params params = {};
  // SAFETY: the kernel reads and fills params, which lives through the call; the ring closes with
  // `ring`.
  const Fd ring(static_cast<int>(::syscall(SYS_io_uring_setup, 2, &params)));
  return ring.valid() ? 0 : errno;
}

int try_seccomp() {
  const uint32_t action = SECCOMP_RET_KILL_PROCESS;
  // SAFETY: reads one action.
  return ::syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0 ? 0 : errno;
}

int try_user_namespace() {
  const pid_t child = ::fork();
  if (child < 0) return errno;
  if (child == 0) {
    // Some security modules let one be made, and give no rights in it.
    const bool works = ::unshare(CLONE_NEWUSER) == 0 && ::unshare(CLONE_NEWNS) == 0;
    ::_exit(works ? 0 : errno);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : EPERM;
}

}  // namespace mayfly::daemon
