// SPDX-License-Identifier: Apache-2.0
//
// Starts a command: its own session and process group, standard streams on pipes or on a new
// terminal, every signal at its default. Called on the agent's one thread; the child never returns
// into the agent's code.
#pragma once

#include "base/fd.h"
#include "guest/agent/messages.h"

#include <cstdint>
#include <string>

#include <sys/types.h>

namespace mayfly::guest {

/// Our ends, all non-blocking.
struct Child {
  pid_t pid = -1;
  Fd stdin_end;
  /// With a terminal: its master side; stderr_end is absent.
  Fd stdout_end;
  Fd stderr_end;
  /// A terminal's other side, kept open so that its output outlives the command: close it once it
  /// has exited.
  Fd terminal_side;
  /// Readable once it is known whether the program runs: see read_exec_status().
  Fd exec_status;
};

/// Errors here are the agent's own (no memory, no descriptors), with their errno.
Result<Child> spawn(const ExecStart& start);

/// Why the program could not be started.
struct ExecFailure {
  int guest_errno = 0;
  std::string message;
};

enum class ExecStatus : uint8_t { kPending, kRunning, kFailed };

/// What the child has said so far on `exec_status`; fills `failure` for kFailed.
ExecStatus read_exec_status(FdRef exec_status, const ExecStart& start, ExecFailure& failure);

void set_window_size(FdRef terminal, WindowSize size);

/// Bytes that wait in a pipe, 0 where the kernel cannot say.
size_t bytes_waiting(FdRef pipe);

}  // namespace mayfly::guest
