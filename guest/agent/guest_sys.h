// SPDX-License-Identifier: Apache-2.0
//
// The few calls into the guest's kernel that have no wrapper worth the name. None blocks.
#pragma once

#include "base/fd.h"
#include "guest/agent/messages.h"

namespace mayfly::guest {

/// A module that is already loaded is no error.
Result<> load_module(FdRef file, const char* name);

Result<> bring_up_loopback();

/// Mixes the entropy into the kernel's generator, reseeds it, and sets CLOCK_REALTIME. What fails
/// does not keep the rest from being done.
Reseeded reseed(const Restored& restored);

/// Returns only on failure.
Error power_down(ShutdownMode mode);

}  // namespace mayfly::guest
