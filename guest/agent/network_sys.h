// SPDX-License-Identifier: Apache-2.0
//
// The guest's network devices, set up as the host says: addresses, the way out, and who knows
// names.
#pragma once

#include "base/error.h"
#include "guest/agent/messages.h"

namespace mayfly::guest {

/// Each device is taken down and up again, which forgets what it was before: a guest that was made
/// from another's memory has that one's. Blocks for a few system calls.
Result<> set_network(const Network& network);

}  // namespace mayfly::guest
