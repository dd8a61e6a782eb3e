// SPDX-License-Identifier: Apache-2.0
#include "virtio/vsock/send_buffer.h"

#include <algorithm>

namespace mayfly::virtio::vsock {

void SendBuffer::append(ChainReader& reader, uint32_t size_bytes) {
  CHECK(size_bytes <= room() && size_bytes <= reader.remaining());
  // Left uninitialised: only what is used becomes memory.
  if (!bytes_) bytes_ = std::make_unique_for_overwrite<std::byte[]>(kSendBufferSize);
  while (size_bytes > 0) {
    const uint32_t end = (start_ + size_) % kSendBufferSize;
    const uint32_t piece = std::min(size_bytes, kSendBufferSize - end);
    // Cannot fail: the reader has as much, by the CHECK.
    MUST(reader.read({&bytes_[end], piece}));
    size_ += piece;
    size_bytes -= piece;
  }
}

std::span<const iovec> SendBuffer::front(std::array<iovec, 2>& pieces) const {
  if (size_ == 0) return {};
  const uint32_t first = std::min(size_, kSendBufferSize - start_);
  pieces[0] = {&bytes_[start_], first};
  pieces[1] = {&bytes_[0], size_ - first};
  return std::span(pieces).first(first == size_ ? 1 : 2);
}

void SendBuffer::consume(uint32_t size_bytes) {
  CHECK(size_bytes <= size_);
  start_ = (start_ + size_bytes) % kSendBufferSize;
  size_ -= size_bytes;
  if (size_ > 0) return;
  start_ = 0;
  bytes_.reset();
}

}  // namespace mayfly::virtio::vsock
