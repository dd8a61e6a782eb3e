// SPDX-License-Identifier: Apache-2.0
//
// Where connections to the agent come from. One thread.
#pragma once

#include "base/fd.h"

#include <optional>

namespace mayfly::guest {

class Listener {
 public:
  virtual ~Listener() = default;
  virtual FdRef fd() const = 0;
  /// The next connection, non-blocking; nullopt: none waits. One from where none is taken is closed
  /// and skipped.
  virtual std::optional<Fd> accept() = 0;
};

}  // namespace mayfly::guest
