// SPDX-License-Identifier: Apache-2.0
#include "base/console_ring.h"

#include <algorithm>
#include <atomic>
#include <cstring>

namespace mayfly {
namespace {

// Reading the counters is not one atomic access: they are taken when two reads agree.
constexpr int kCounterTries = 8;

}  // namespace

Result<ConsoleRingWriter> ConsoleRingWriter::create(FdRef ring, FdRef event) {
  return ConsoleRingWriter(TRY(ConsoleRingMapping::create(ring)), event);
}

void ConsoleRingWriter::append(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  const uint64_t capacity = mapping_.capacity();
  // In pieces of half the ring, so that an append never takes everything from a reader at once.
  while (!bytes.empty()) {
    const uint64_t position = written_ % capacity;
    const size_t size = std::min({bytes.size(), static_cast<size_t>(capacity / 2),
                                  static_cast<size_t>(capacity - position)});
    mapping_.reserve(written_ + size);
    mapping_.copy_in(position, bytes.first(size));
    written_ += size;
    mapping_.publish(written_);
    bytes = bytes.subspan(size);
  }
  signal_event(event_);
}

Result<ConsoleRingReader> ConsoleRingReader::create(FdRef ring) {
  const uint64_t capacity = TRY(console_ring_capacity(ring));
  return ConsoleRingReader(TRY(Fd::duplicate(ring)), capacity);
}

ConsoleRingReader::Counters ConsoleRingReader::counters() const {
  const auto load = [this](Counters& counters) {
    constexpr uint64_t kOffset = offsetof(ConsoleRingHeader, written);
    static_assert(offsetof(ConsoleRingHeader, reserved) == kOffset + 8);
    uint64_t words[2];
    if (!pread_exact(ring_.ref(), std::as_writable_bytes(std::span(words)), kOffset)) return false;
    counters = {words[0], words[1]};
    return true;
  };
  Counters first;
  Counters second;
  if (!load(first)) return {};
  for (int i = 0; i < kCounterTries; ++i) {
    if (!load(second)) return {};
    if (first.written == second.written && first.reserved == second.reserved) break;
    first = second;
  }
  std::atomic_thread_fence(std::memory_order_acquire);
  return second;
}

uint64_t ConsoleRingReader::written() const { return counters().written; }

bool ConsoleRingReader::copy_out(uint64_t offset, std::span<std::byte> out) const {
  const uint64_t position = offset % capacity_;
  const size_t before_wrap = std::min(out.size(), static_cast<size_t>(capacity_ - position));
  return pread_exact(ring_.ref(), out.first(before_wrap), kConsoleRingHeaderSize + position) &&
         pread_exact(ring_.ref(), out.subspan(before_wrap), kConsoleRingHeaderSize);
}

ConsoleRead ConsoleRingReader::read(uint64_t offset, std::span<std::byte> out) const {
  const uint64_t written = counters().written;
  if (written <= offset || out.empty()) return {.next_offset = offset};

  const uint64_t oldest = written > capacity_ ? written - capacity_ : 0;
  const uint64_t start = std::max(offset, oldest);
  const auto size = static_cast<size_t>(std::min<uint64_t>(out.size(), written - start));
  const uint64_t end = start + size;
  if (!copy_out(start, out.first(size))) return {0, end, end - offset};
  std::atomic_thread_fence(std::memory_order_acquire);

  const uint64_t reserved = std::max(written, counters().reserved);
  const uint64_t intact = reserved > capacity_ ? reserved - capacity_ : 0;
  const uint64_t kept = std::clamp(intact, start, end);
  const auto torn = static_cast<size_t>(kept - start);
  if (torn != 0) std::memmove(out.data(), out.data() + torn, size - torn);
  return {size - torn, end, kept - offset};
}

}  // namespace mayfly
