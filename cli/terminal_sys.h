// SPDX-License-Identifier: Apache-2.0
//
// System calls of the command line that need an ioctl or have no wrapper. Any thread.
#pragma once

#include "base/fd.h"

#include <cstdint>
#include <optional>

#include <sys/types.h>

namespace mayfly::cli {

struct TerminalSize {
  uint32_t rows = 0;
  uint32_t columns = 0;
};

/// Nothing where the descriptor is no terminal.
std::optional<TerminalSize> terminal_size(FdRef terminal);

/// A descriptor that is readable once our child has ended; invalid where there is none to be had.
Fd open_pidfd(pid_t child);

}  // namespace mayfly::cli
