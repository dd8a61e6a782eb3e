// SPDX-License-Identifier: Apache-2.0
//
// Who the program is.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "jailer/jail_spec.h"

namespace mayfly::jailer {

/// kRoot: becomes `uid` and `gid`, with no other group, for good. The capabilities stay until
/// drop_capabilities(), for the steps in between.
Result<> take_ids(const JailSpec& spec);

/// In a new user namespace: gives `uid` and `gid` the same numbers inside as outside, and nobody
/// else any. `proc_self` is /proc/self.
Result<> map_ids(FdRef proc_self, const JailSpec& spec);

}  // namespace mayfly::jailer
