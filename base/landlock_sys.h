// SPDX-License-Identifier: Apache-2.0
//
// Landlock (Documentation/userspace-api/landlock.rst): rights that a thread gives up for good, with
// all that it starts. Debian 12's <linux/landlock.h> is older than most of it, so the numbers are
// ours.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstdint>
#include <span>

namespace mayfly::landlock {

inline constexpr uint64_t kExecute = 1 << 0;
inline constexpr uint64_t kReadFile = 1 << 2;
inline constexpr uint64_t kMakeChar = 1 << 6;
inline constexpr uint64_t kMakeBlock = 1 << 11;
inline constexpr uint64_t kMakeSym = 1 << 12;

/// As the kernel takes them.
struct Rights {
  uint64_t file_system = 0;
  uint64_t network = 0;
  uint64_t scopes = 0;

  bool operator==(const Rights&) const = default;
};

/// The kernel's version; 0: not in this kernel, or not switched on.
int version();

/// All that version() knows; the rights named above are in each of them.
Rights all_rights();

/// File rights that stay: on a file, or on a directory and all that is beneath it.
struct Exception {
  FdRef file;
  uint64_t allowed = 0;
};

/// From now on the thread has none of `denied`, which version() must know, but `exceptions`.
/// Descriptors that are open already are not affected. Needs no_new_privs.
Result<> restrict_self(const Rights& denied, std::span<const Exception> exceptions);

}  // namespace mayfly::landlock
