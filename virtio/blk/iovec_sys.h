// SPDX-License-Identifier: Apache-2.0
//
// Going on in the middle of a list of buffers, after a short transfer.
#pragma once

#include <cstddef>
#include <span>

#include <sys/uio.h>

namespace mayfly::virtio::blk {

/// What is left of `buffers` after their first `size_bytes` bytes; shortens the first one left, in
/// place.
std::span<iovec> drop_front(std::span<iovec> buffers, size_t size_bytes);

}  // namespace mayfly::virtio::blk
