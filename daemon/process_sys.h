// SPDX-License-Identifier: Apache-2.0
//
// Child processes by descriptor: spawned without fork (gRPC has threads), held by pidfd, so that no
// signal ever reaches a process that took over the number. Any thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <string>
#include <vector>

#include <sys/types.h>

namespace mayfly::daemon {

struct Process {
  pid_t pid = 0;
  Fd pidfd;
};

struct SpawnPlan {
  std::string program;
  // Without argv[0], which is the program's path.
  std::vector<std::string> arguments;
  // Standard error of the child; invalid: inherited.
  FdRef standard_error;
  // Become descriptors 3, 4, ... Standard input and output are /dev/null, and nothing else is
  // inherited.
  std::vector<FdRef> inherited;
};

/// Starts the program in a process group of its own, with default signals and our environment.
Result<Process> spawn(const SpawnPlan& plan);

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
