// SPDX-License-Identifier: Apache-2.0
//
// Starts passt with nothing of the daemon's but what it is given. Any thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <string>
#include <vector>

namespace mayfly::daemon {

/// Where it finds them.
inline constexpr int kPasstSocket = 3;
inline constexpr int kPasstReady = 4;

struct PasstFiles {
  FdRef socket;
  FdRef ready;
  /// Its standard error; input and output are nothing.
  FdRef error;
};

/// Its pidfd. The first of the arguments is its path.
Result<Fd> spawn_passt(const std::vector<std::string>& arguments, const PasstFiles& files);

/// A memfd stays as long as it is.
Result<> forbid_growth(FdRef memfd);

}  // namespace mayfly::daemon
