// SPDX-License-Identifier: Apache-2.0
//
// Puts a compiled filter on the calling thread, for good, and says what it denied.
//
// A denied call is answered with a trap: it is not executed, and the thread runs the handler set by
// on_denial() instead. The handler tells, and then the process is killed: by a call that every
// filter of ours answers with SECCOMP_RET_KILL_PROCESS, so that it ends by SIGSYS whatever became
// of the handler. Where SIGSYS is blocked, the kernel itself kills with it.
#pragma once

#include "base/error.h"

#include <cstdint>
#include <span>

#include <linux/filter.h>

namespace mayfly::seccomp {

/// A program for this architecture, compiled by libseccomp; static data.
struct Filter {
  static constexpr size_t kMaxInstructions = 512;

  std::span<const sock_filter> program;
  /// Instructions that compare with the process's id, still to be filled in.
  std::span<const uint16_t> own_pid_at;
};

/// For the calling thread and those it will start, after forbid_new_privileges(). Filters stack: a
/// call has to pass all.
Result<> install(const Filter& filter);

/// Called in a signal handler on the thread that made the call: nothing but what is
/// async-signal-safe and passes the filter. `tag` is the data of the filter that denied.
using DenialHandler = void (*)(uint16_t tag, uint32_t number);

/// For the whole process, before the first filter; once it is in force nobody can change it.
Result<> on_denial(DenialHandler handler);

}  // namespace mayfly::seccomp
