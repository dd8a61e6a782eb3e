// SPDX-License-Identifier: Apache-2.0
//
// What the guest has sent and the host's socket has not taken yet: a ring of bytes, there only
// while it is needed. Its size is what we tell the guest it may have under way (buf_alloc), so it
// never overflows.
#pragma once

#include "virtio/queue/chain.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <sys/uio.h>

namespace mayfly::virtio::vsock {

/// Two of the largest packets that Linux sends: one may be under way while the credit for the other
/// returns.
inline constexpr uint32_t kSendBufferSize = 128 * 1024;

class SendBuffer {
 public:
  uint32_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  uint32_t room() const { return kSendBufferSize - size_; }

  /// The next `size_bytes` (<= room(), <= what the reader has) of the chain, to the end.
  void append(ChainReader& reader, uint32_t size_bytes);
  /// What is there, in order, as at most two pieces in `pieces`.
  std::span<const iovec> front(std::array<iovec, 2>& pieces) const;
  /// Drops `size_bytes` (<= size()) from the front. An empty buffer gives its memory back.
  void consume(uint32_t size_bytes);
  void clear() { consume(size_); }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  uint32_t start_ = 0;
  uint32_t size_ = 0;
};

}  // namespace mayfly::virtio::vsock
