// SPDX-License-Identifier: Apache-2.0
#include "virtio/net/rx_buffers.h"

#include <algorithm>

namespace mayfly::virtio::net {

Result<bool> RxBuffers::add(Chain& chain) {
  const uint64_t bytes = chain.writer.remaining();
  if (bytes < sizeof(Header)) {
    return fail({Code::kInvalidArgument, "NET_RX_BUFFER"},
                "net: a receive buffer of %llu bytes has no room for a header of %zu",
                static_cast<unsigned long long>(bytes), sizeof(Header));
  }
  if (first_chain_ + chain_count_ == chains_.size()) move_to_front();
  const size_t next = first_piece_ + piece_count_;
  const auto count = chain.writer.take_spans(std::span(pieces_).subspan(next));
  if (!count) {
    if (first_piece_ == 0) return false;
    move_to_front();
    return add(chain);
  }
  chains_[first_chain_ + chain_count_++] = {
      .head = chain.head, .pieces = static_cast<uint16_t>(*count), .bytes = bytes};
  piece_count_ += *count;
  room_ += bytes;
  return true;
}

void RxBuffers::move_to_front() {
  std::copy_n(chains_.begin() + static_cast<ptrdiff_t>(first_chain_), chain_count_,
              chains_.begin());
  std::copy_n(pieces_.begin() + static_cast<ptrdiff_t>(first_piece_), piece_count_,
              pieces_.begin());
  first_chain_ = 0;
  first_piece_ = 0;
}

std::span<const iovec> RxBuffers::frame(bool whole) {
  if (empty()) return {};
  const size_t pieces = whole ? piece_count_ : chains_[first_chain_].pieces;
  uint64_t to_skip = sizeof(Header);
  size_t count = 0;
  for (const GuestSpan& piece : std::span(pieces_).subspan(first_piece_, pieces)) {
    const uint64_t skipped = std::min(to_skip, piece.size());
    to_skip -= skipped;
    if (skipped == piece.size()) continue;
    iovecs_[count++] = piece.subspan(skipped, piece.size() - skipped).as_iovec();
  }
  return std::span(iovecs_).first(count);
}

uint16_t RxBuffers::chains_for(uint64_t bytes) const {
  uint16_t count = 0;
  for (uint64_t covered = 0; covered < bytes && count < chain_count_; ++count) {
    covered += chains_[first_chain_ + count].bytes;
  }
  return count;
}

void RxBuffers::write_header(const Header& header) const {
  auto left = std::as_bytes(std::span(&header, 1));
  // The first chain has room for it.
  for (size_t piece = first_piece_; !left.empty(); ++piece) {
    const auto part =
        left.first(static_cast<size_t>(std::min<uint64_t>(left.size(), pieces_[piece].size())));
    pieces_[piece].write(0, part);
    left = left.subspan(part.size());
  }
}

void RxBuffers::fill(Queue& queue, Header header, uint64_t frame_bytes) {
  uint64_t left = sizeof(Header) + frame_bytes;
  CHECK(left <= room_);
  header.num_buffers = chains_for(left);
  write_header(header);
  for (uint16_t chain = 0; chain < header.num_buffers; ++chain) {
    const Held held = chains_[first_chain_];
    const uint64_t written = std::min(left, held.bytes);
    left -= written;
    drop_first();
    queue.complete(held.head, static_cast<uint32_t>(written));
  }
}

void RxBuffers::drop_first() {
  const Held& held = chains_[first_chain_++];
  --chain_count_;
  first_piece_ += held.pieces;
  piece_count_ -= held.pieces;
  room_ -= held.bytes;
}

void RxBuffers::put_back(Queue& queue) {
  while (chain_count_ > 0) queue.put_back(chains_[first_chain_ + --chain_count_].head);
  first_chain_ = 0;
  first_piece_ = 0;
  piece_count_ = 0;
  room_ = 0;
}

}  // namespace mayfly::virtio::net
