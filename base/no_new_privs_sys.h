// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "base/error.h"

namespace mayfly {

/// The calling thread, and those it will start, get no privileges by exec: no set-uid program or
/// file capability gives anything back. For good; filters and Landlock need it.
Result<> forbid_new_privileges();

}  // namespace mayfly
