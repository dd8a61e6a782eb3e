// SPDX-License-Identifier: Apache-2.0
#include "daemon/process_sys.h"

#include <cerrno>
#include <csignal>

#include <poll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

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

Result<ProcessEnd> reap(FdRef pidfd) { return wait_id(pidfd, WNOHANG); }

Result<ProcessEnd> wait_and_reap(FdRef pidfd, int timeout_ms) {
  pollfd entry = {.fd = pidfd.number(), .events = POLLIN, .revents = 0};
  const int ready = ::poll(&entry, 1, timeout_ms);
  if (ready == 0) return fail({Code::kDeadlineExceeded, "STILL_RUNNING"}, "the process still runs");
  return wait_id(pidfd, 0);
}

void send_signal(FdRef pidfd, int signal) {
  // SAFETY: numbers, and no siginfo.
  ::syscall(SYS_pidfd_send_signal, pidfd.number(), signal, nullptr, 0);
}

}  // namespace mayfly::daemon
