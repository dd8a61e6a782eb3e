// SPDX-License-Identifier: Apache-2.0
//
// What the kernel command line asks of the agent. The host writes the line; it is parsed once, by
// PID 1.
#pragma once

#include "base/error.h"

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly::guest {

/// The kernel's own limit on x86 is 2048 bytes; nothing longer is looked at.
inline constexpr size_t kMaxCmdlineBytes = 4096;

struct BootOptions {
  /// `root=`: a device directly under /dev. Empty: the guest stays in its initramfs.
  std::string root;
  /// `rootfstype=`: tried in this order; empty: the agent's own list.
  std::vector<std::string> root_types;
  /// `rootflags=`: handed to the file system as it is.
  std::string root_flags;
  /// `rw`; the kernel's default, and ours, is `ro`.
  bool root_writable = false;
  /// `mayfly.hostname=`; empty: the kernel's.
  std::string hostname;
  /// `mayfly.init=`: a program that becomes PID 1 once the root is in place. Empty: the agent stays
  /// PID 1.
  std::string init;
};

/// Words are split as the kernel splits them: at white space outside double quotes; of a word given
/// twice the last one counts; `--` ends the line. Unknown words are for others and ignored. Errors
/// are kInvalidArgument and name the word.
Result<BootOptions> parse_cmdline(std::string_view line);

}  // namespace mayfly::guest
