// SPDX-License-Identifier: Apache-2.0
#include "virtio/queue/chain.h"

#include <algorithm>

namespace mayfly::virtio {
namespace {

unsigned long long printable(uint64_t value) { return value; }

std::unexpected<Error> too_many_pieces(uint64_t left, size_t limit) {
  return fail({Code::kOutOfRange, "CHAIN_TOO_MANY_PIECES"},
              "descriptor chain: %llu more bytes than %zu buffers hold", printable(left), limit);
}

}  // namespace

std::unexpected<Error> ChainCursor::too_short(uint64_t size_bytes) const {
  return fail({Code::kOutOfRange, "CHAIN_TOO_SHORT"},
              "descriptor chain: %llu bytes are left where %llu are needed", printable(remaining_),
              printable(size_bytes));
}

Result<size_t> ChainCursor::take_iovecs(uint64_t size_bytes, std::span<iovec> out) {
  TRY(require(size_bytes));
  ChainCursor ahead = *this;
  size_t count = 0;
  while (size_bytes != 0) {
    if (count == out.size()) return too_many_pieces(size_bytes, count);
    const GuestSpan piece = ahead.take_piece(size_bytes);
    out[count++] = piece.as_iovec();
    size_bytes -= piece.size();
  }
  *this = ahead;
  return count;
}

Result<size_t> ChainCursor::take_spans(std::span<GuestSpan> out) {
  ChainCursor ahead = *this;
  size_t count = 0;
  while (ahead.remaining_ != 0) {
    if (count == out.size()) return too_many_pieces(ahead.remaining_, count);
    out[count++] = ahead.take_piece(ahead.remaining_);
  }
  *this = ahead;
  return count;
}

Result<GuestSpan> ChainCursor::take_tail(uint64_t size_bytes) {
  TRY(require(size_bytes));
  if (size_bytes == 0) return GuestSpan();
  // Where the bytes that are left end, counted from the start of the span that holds the end.
  uint64_t end = offset_ + remaining_;
  size_t index = 0;
  while (end > spans_[index].size()) end -= spans_[index++].size();
  const uint64_t start_in_span = index == 0 ? offset_ : 0;
  if (size_bytes > end - start_in_span) {
    return fail({Code::kOutOfRange, "CHAIN_TAIL_SPLIT"},
                "descriptor chain: its last %llu bytes are in more than one descriptor",
                printable(size_bytes));
  }
  remaining_ -= size_bytes;
  return spans_[index].subspan(end - size_bytes, size_bytes);
}

Result<> ChainReader::read(std::span<std::byte> out) {
  TRY(cursor_.require(out.size()));
  read_some(out);
  return {};
}

size_t ChainReader::read_some(std::span<std::byte> out) {
  size_t done = 0;
  while (done < out.size() && cursor_.remaining() != 0) {
    const GuestSpan piece = cursor_.take_piece(out.size() - done);
    piece.read(0, out.subspan(done, piece.size()));
    done += piece.size();
  }
  return done;
}

Result<> ChainReader::skip(uint64_t size_bytes) {
  TRY(cursor_.require(size_bytes));
  while (size_bytes != 0) size_bytes -= cursor_.take_piece(size_bytes).size();
  return {};
}

Result<> ChainWriter::write(std::span<const std::byte> in) {
  TRY(cursor_.require(in.size()));
  write_some(in);
  return {};
}

size_t ChainWriter::write_some(std::span<const std::byte> in) {
  size_t done = 0;
  while (done < in.size() && cursor_.remaining() != 0) {
    const GuestSpan piece = cursor_.take_piece(in.size() - done);
    piece.write(0, in.subspan(done, piece.size()));
    done += piece.size();
  }
  written_ += static_cast<uint32_t>(done);
  return done;
}

Result<size_t> ChainWriter::take_iovecs(uint64_t size_bytes, std::span<iovec> out) {
  const size_t count = TRY(cursor_.take_iovecs(size_bytes, out));
  written_ += static_cast<uint32_t>(size_bytes);
  return count;
}

GuestSpan ChainWriter::take_pages(uint64_t limit) {
  const GuestSpan pages = cursor_.take_piece(cursor_.remaining()).whole_pages();
  return pages.size() <= limit ? pages : pages.subspan(0, limit - limit % kGuestPageBytes);
}

}  // namespace mayfly::virtio
