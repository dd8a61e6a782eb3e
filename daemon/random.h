// SPDX-License-Identifier: Apache-2.0
//
// The kernel's random bytes. Any thread.
#pragma once

#include <cstddef>
#include <string>

namespace mayfly::daemon {

/// At most 256.
std::string random_bytes(size_t count);

/// 128 random bits in hex, for incarnations and epochs.
std::string random_token();

}  // namespace mayfly::daemon
