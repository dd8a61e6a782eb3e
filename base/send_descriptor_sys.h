// SPDX-License-Identifier: Apache-2.0
//
// A packet over a Unix socket, with one descriptor (SCM_RIGHTS). Any thread.
#pragma once

#include "base/fd.h"

#include <cstddef>
#include <span>

#include <sys/types.h>

namespace mayfly {

/// As sendmsg(), once, without SIGPIPE: how much was sent, or -1 and errno. `bytes` is not empty.
ssize_t send_with_descriptor(FdRef socket, std::span<const std::byte> bytes, FdRef descriptor);

}  // namespace mayfly
