// SPDX-License-Identifier: Apache-2.0
//
// Child processes by pidfd, so that no signal ever reaches a process that took over the number. Any
// thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"

namespace mayfly::daemon {

/// How a process ended.
struct ProcessEnd {
  // The signal that ended it, or 0.
  int signal = 0;
  int exit_status = 0;
};

/// Reaps a process whose pidfd is readable; kUnavailable while it still runs.
Result<ProcessEnd> reap(FdRef pidfd);

/// Waits for its end and reaps it; kDeadlineExceeded after `timeout_ms` (-1: never).
Result<ProcessEnd> wait_and_reap(FdRef pidfd, int timeout_ms);

/// Sends a signal; an ended process is no error.
void send_signal(FdRef pidfd, int signal);

}  // namespace mayfly::daemon
