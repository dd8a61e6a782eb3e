// SPDX-License-Identifier: Apache-2.0
#include "virtio/blk/iovec_sys.h"

namespace mayfly::virtio::blk {

std::span<iovec> drop_front(std::span<iovec> buffers, size_t size_bytes) {
  while (!buffers.empty() && size_bytes >= buffers.front().iov_len) {
    size_bytes -= buffers.front().iov_len;
    buffers = buffers.subspan(1);
  }
  if (!buffers.empty() && size_bytes > 0) {
    iovec& first = buffers.front();
    // SAFETY: size_bytes is below iov_len here, so the address stays inside the same buffer.
    first.iov_base = static_cast<char*>(first.iov_base) + size_bytes;
    first.iov_len -= size_bytes;
  }
  return buffers;
}

}  // namespace mayfly::virtio::blk
