// SPDX-License-Identifier: Apache-2.0
//
// A copy of a file that takes no more room than it must.
#pragma once

#include "base/error.h"
#include "base/fd.h"

namespace mayfly::image {

/// `to` is empty. One file system that shares blocks: a clone; else the data, and the holes as
/// holes.
Result<> copy_sparse(FdRef from, FdRef to);

}  // namespace mayfly::image
