// SPDX-License-Identifier: Apache-2.0
//
// One layer, a tar, laid over the tree of those below it.
#pragma once

#include "base/error.h"
#include "image/limits.h"
#include "image/spool.h"
#include "image/stream.h"
#include "image/tree.h"

namespace mayfly::image {

/// All entries of the tar in `in`; files' bytes go to the spool. Attributes that no ext4 of a guest
/// has a place for (other than user.*, trusted.* and security.*) are left out and counted.
Result<> apply_layer(Stream& in, Tree& tree, Spool& spool, uint64_t& attributes_left_out);

}  // namespace mayfly::image
