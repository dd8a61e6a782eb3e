// SPDX-License-Identifier: Apache-2.0
//
// Capabilities: kept for the jailer's own steps, then gone for good.
#pragma once

#include "base/error.h"

namespace mayfly::jailer {

/// Makes effective what a change of the user id has left permitted.
Result<> raise_permitted_capabilities();

/// Empties all five sets, and locks the securebits so that no exec or change of ids, to user 0
/// included, fills one again.
Result<> drop_capabilities();

}  // namespace mayfly::jailer
