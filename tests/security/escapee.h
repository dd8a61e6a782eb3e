// SPDX-License-Identifier: Apache-2.0
//
// How the escapee comes to stand where a monitor stands, and what it says of an attempt.
#pragma once

#include "base/error.h"
#include "tests/security/attempt.h"
#include "vmm/seccomp/confinement.h"

#include <string_view>

namespace mayfly::escape {

/// As which thread of a monitor the attempt is made, and so under which filters.
enum class Place : uint8_t { kUnfiltered, kStart, kLoop, kVcpu };

Result<Place> parse_place(std::string_view name);

/// Exit codes; a death by a signal says that a filter denied a call.
inline constexpr int kEscapedCode = 0;
inline constexpr int kBrokenCode = 1;  // the escapee itself failed
inline constexpr int kUsageCode = 2;
inline constexpr int kRefusedCode = 10;
inline constexpr int kMissingCode = 11;

/// Enters the filters of `place`; for kVcpu also starts the thread that then waits for
/// make_attempt().
Result<> take_place(const vmm::Confinement& confinement, Place place);

/// On the thread of the place; a line on standard error says what came of it.
int make_attempt(Place place, const Attempt& attempt, World& world);

/// A mayfly-vmm as far as the daemon can see: it is configured and then does what the guest's
/// command line says. See README.md. Does not return.
[[noreturn]] void run_as_monitor(int control);

}  // namespace mayfly::escape
