// SPDX-License-Identifier: Apache-2.0
//
// What a jail is made from: the jailer's arguments, checked.
#pragma once

#include "base/error.h"

#include <span>
#include <string>
#include <vector>

namespace mayfly::jailer {

/// The most descriptors a program in the jail may be given.
inline constexpr size_t kMaxKept = 16;

struct JailSpec {
  /// The program, open for reading: it is executed by descriptor, from wherever it lies.
  int exec_fd = -1;
  /// What the program inherits beside standard input, output and error.
  std::vector<int> kept;
  /// Its argv, argv[0] included.
  std::vector<std::string> arguments;
};

/// From `--exec-fd=N [--keep-fd=N]... -- ARGV...`, without the jailer's own name.
Result<JailSpec> parse_arguments(std::span<const char* const> arguments);

}  // namespace mayfly::jailer
