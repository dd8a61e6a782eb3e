// SPDX-License-Identifier: Apache-2.0
//
// Chains that were taken for frames to come, first in first out, with all their pieces, so that one
// receive fills as many as its frame needs. Bounded; what is not filled is put back.
//
// Threads: under the device lock.
#pragma once

#include "virtio/net/backend.h"
#include "virtio/net/wire.h"
#include "virtio/queue/queue.h"

#include <array>
#include <cstdint>
#include <span>

#include <sys/uio.h>

namespace mayfly::virtio::net {

class RxBuffers {
 public:
  bool empty() const { return chain_count_ == 0; }
  /// Bytes of all chains, or of the first one alone.
  uint64_t room() const { return room_; }
  uint64_t first_room() const { return empty() ? 0 : chains_[first_chain_].bytes; }

  /// False: there is no place for its pieces, and nothing was taken. An Error: it has no room for a
  /// header.
  Result<bool> add(Chain& chain);

  /// What is behind the first chain's header: of that chain, or of all. Valid until the next call.
  std::span<const iovec> frame(bool whole);

  /// Completes as many chains as `frame_bytes` take behind a header, which gets their number and
  /// goes in front. The chains have that room.
  void fill(Queue& queue, Header header, uint64_t frame_bytes);

  /// Gives back what is not filled, as if it had never been taken.
  void put_back(Queue& queue);

 private:
  struct Held {
    uint16_t head;
    uint16_t pieces;
    uint64_t bytes;
  };

  void move_to_front();
  void drop_first();
  uint16_t chains_for(uint64_t bytes) const;
  void write_header(const Header& header) const;

  uint64_t room_ = 0;
  size_t first_chain_ = 0;
  size_t chain_count_ = 0;
  size_t first_piece_ = 0;
  size_t piece_count_ = 0;
  std::array<Held, kMaxQueueSize> chains_;
  std::array<GuestSpan, kMaxPieces> pieces_;
  std::array<iovec, kMaxPieces> iovecs_;
};

}  // namespace mayfly::virtio::net
