// SPDX-License-Identifier: Apache-2.0
//
// One request of a queue: the guest's buffers in order, already checked, behind a reader and a
// writer that count. Threads: under the device lock (virtio/device.h).
#pragma once

#include "base/error.h"
#include "base/memory/guest_memory.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/uio.h>

namespace mayfly::virtio {

/// A place in a list of spans: what ChainReader and ChainWriter share.
class ChainCursor {
 public:
  ChainCursor() = default;
  explicit ChainCursor(std::span<const GuestSpan> spans) : spans_(spans) {
    for (const GuestSpan& span : spans) remaining_ += span.size();
  }

  uint64_t remaining() const { return remaining_; }
  /// The next piece of at most `limit` bytes that lies in one span, consumed. Not empty, while
  /// remaining() and `limit` are not 0.
  GuestSpan take_piece(uint64_t limit) {
    limit = std::min(limit, remaining_);
    if (limit == 0) return {};
    while (offset_ == spans_.front().size()) {
      spans_ = spans_.subspan(1);
      offset_ = 0;
    }
    const uint64_t size = std::min(limit, spans_.front().size() - offset_);
    const GuestSpan piece = spans_.front().subspan(offset_, size);
    offset_ += size;
    remaining_ -= size;
    return piece;
  }
  Result<size_t> take_iovecs(uint64_t size_bytes, std::span<iovec> out);
  Result<size_t> take_spans(std::span<GuestSpan> out);
  Result<GuestSpan> take_tail(uint64_t size_bytes);
  /// kOutOfRange where fewer than `size_bytes` are left.
  Result<> require(uint64_t size_bytes) const {
    if (size_bytes <= remaining_) return {};
    return too_short(size_bytes);
  }

 private:
  std::unexpected<Error> too_short(uint64_t size_bytes) const;

  std::span<const GuestSpan> spans_;
  uint64_t offset_ = 0;  // into spans_.front()
  uint64_t remaining_ = 0;
};

/// Reads a chain's device-readable bytes in order. Borrows the queue's scratch space: only inside
/// the handler.
class ChainReader {
 public:
  ChainReader() = default;
  explicit ChainReader(std::span<const GuestSpan> spans) : cursor_(spans) {}

  uint64_t remaining() const { return cursor_.remaining(); }
  /// Exactly `out.size()` bytes, or kOutOfRange with nothing consumed.
  Result<> read(std::span<std::byte> out);
  template <typename T>
  Result<T> read_object() {
    TRY(cursor_.require(sizeof(T)));
    const GuestSpan piece = cursor_.take_piece(sizeof(T));
    // As a rule: one copy, of a size that the compiler knows.
    if (piece.size() == sizeof(T)) return piece.load<T>(0);
    T value;
    const auto bytes = std::as_writable_bytes(std::span<T, 1>(&value, 1));
    piece.read(0, bytes.first(piece.size()));
    read_some(bytes.subspan(piece.size()));
    return value;
  }
  /// As many bytes as there are, at most `out.size()`.
  size_t read_some(std::span<std::byte> out);
  Result<> skip(uint64_t size_bytes);
  /// The next `size_bytes` bytes as iovecs into `out`, consumed; the number used, or an Error, with
  /// nothing consumed, where `out` is too short or the chain is.
  Result<size_t> take_iovecs(uint64_t size_bytes, std::span<iovec> out) {
    return cursor_.take_iovecs(size_bytes, out);
  }

 private:
  ChainCursor cursor_;
};

/// Fills a chain's device-writable bytes in order; the mirror of ChainReader.
class ChainWriter {
 public:
  ChainWriter() = default;
  explicit ChainWriter(std::span<const GuestSpan> spans) : cursor_(spans) {}

  uint64_t remaining() const { return cursor_.remaining(); }
  uint32_t written() const { return written_; }
  /// All of `in`, or kOutOfRange with nothing written.
  Result<> write(std::span<const std::byte> in);
  template <typename T>
  Result<> write_object(const T& value) {
    return write(std::as_bytes(std::span<const T, 1>(&value, 1)));
  }
  /// As much of `in` as there is room for.
  size_t write_some(std::span<const std::byte> in);
  /// As ChainReader::take_iovecs(), counted as written.
  Result<size_t> take_iovecs(uint64_t size_bytes, std::span<iovec> out);
  /// The next buffer's whole pages of 4 KiB of RAM, of at most `limit` bytes, for devices that are
  /// given pages and do not write to them: empty where there are none in it. All of the buffer is
  /// consumed, and nothing counted as written.
  GuestSpan take_pages(uint64_t limit);
  /// All that remains, consumed, as spans that may be kept until the chain is completed; the number
  /// of them, or an Error, with nothing consumed, where `out` is too short. Not counted as written.
  Result<size_t> take_spans(std::span<GuestSpan> out) { return cursor_.take_spans(out); }
  /// The last `size_bytes` writable bytes, wherever the descriptors are cut before them (a block
  /// request's status byte), taken off the end and not counted as written. An Error where they lie
  /// in two descriptors, which a single byte never does.
  Result<GuestSpan> take_tail(uint64_t size_bytes) { return cursor_.take_tail(size_bytes); }

 private:
  ChainCursor cursor_;
  uint32_t written_ = 0;
};

/// One request, checked. Valid only inside the handler it is given to.
struct Chain {
  /// The descriptor index to give back with Queue::complete().
  uint16_t head = 0;
  ChainReader reader;
  ChainWriter writer;
};

}  // namespace mayfly::virtio
