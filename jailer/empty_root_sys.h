// SPDX-License-Identifier: Apache-2.0
//
// An empty directory as the root of everything.
#pragma once

#include "base/error.h"

namespace mayfly::jailer {

/// Replaces all mounts of the calling thread's mount namespace, which must be its own, by one empty
/// read-only file system that is its root and working directory. Leaves nothing on the host.
/// Needs CAP_SYS_ADMIN there.
Result<> make_root_empty();

}  // namespace mayfly::jailer
