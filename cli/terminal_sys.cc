// SPDX-License-Identifier: Apache-2.0
#include "cli/terminal_sys.h"

#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::cli {

std::optional<TerminalSize> terminal_size(FdRef terminal) {
  winsize size = {};
  // SAFETY: the kernel fills size, which lives through the call.
  if (::ioctl(terminal.number(), TIOCGWINSZ, &size) != 0) return std::nullopt;
  return TerminalSize{.rows = size.ws_row, .columns = size.ws_col};
}

Fd open_pidfd(pid_t child) {
  // SAFETY: takes numbers only.
  return Fd(static_cast<int>(::syscall(SYS_pidfd_open, child, 0)));
}

}  // namespace mayfly::cli
