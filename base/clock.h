// SPDX-License-Identifier: Apache-2.0
//
// Monotonic time in nanoseconds. Any thread.
#pragma once

#include <cstdint>

namespace mayfly {

/// CLOCK_MONOTONIC, in ns; the same clock in every process of the host, so phases can be told apart
/// across daemon and monitor.
uint64_t monotonic_ns();

}  // namespace mayfly
