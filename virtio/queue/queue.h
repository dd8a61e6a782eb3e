// SPDX-License-Identifier: Apache-2.0
//
// The split virtqueue of one device queue (virtio 1.2, section 2.7): rings, descriptor chains, indirect tables and
// notification suppression. Knows no device and no transport. It is the only code that touches avail, used,
// event_idx and the fences between them.
//
// Everything in the rings comes from a hostile guest and is read once. A chain is walked, checked and copied whole
// before a device sees it: at most size() descriptors in all, no loop, every buffer inside RAM, readable ones before
// writable ones, at most 2^32 - 1 bytes. Anything else is an Error that the device passes to
// DeviceHost::needs_reset(); the queue then serves nothing until it is reset.
//
// Threads: under the device lock (virtio/device.h).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include <sys/uio.h>

#include "base/error.h"
#include "base/memory/guest_memory.h"

namespace mayfly::virtio {

/// The largest queue any device offers. Bounds a chain and the scratch space for it.
inline constexpr uint16_t kMaxQueueSize = 256;

/// Where the driver put the rings, and how far both sides are: everything a queue is, as untrusted plain data.
struct QueueState {
  uint16_t size = 0;
  bool ready = false;
  Gpa descriptors;
  Gpa driver_area;
  Gpa device_area;
  uint16_t next_avail = 0;
  uint16_t next_used = 0;

  friend bool operator==(const QueueState&, const QueueState&) = default;
};

/// Reads a chain's device-readable bytes in order. Borrows the queue's scratch space: only inside the handler.
class ChainReader {
 public:
  explicit ChainReader(std::span<const GuestSpan> spans);

  uint64_t remaining() const { return remaining_; }
  /// Exactly `out.size()` bytes, or kOutOfRange with nothing consumed.
  Result<> read(std::span<std::byte> out);
  template <typename T>
  Result<T> read_object() {
    T value;
    TRY(read(std::as_writable_bytes(std::span<T, 1>(&value, 1))));
    return value;
  }
  Result<> skip(uint64_t size_bytes);
  /// The next `size_bytes` bytes as iovecs into `out`, consumed; the number used, or an Error where `out` is too
  /// short or the chain is.
  Result<size_t> take_iovecs(uint64_t size_bytes, std::span<iovec> out);

 private:
  std::span<const GuestSpan> spans_;
  uint64_t offset_ = 0;  // into spans_.front()
  uint64_t remaining_ = 0;
};

/// Fills a chain's device-writable bytes in order; the mirror of ChainReader.
class ChainWriter {
 public:
  explicit ChainWriter(std::span<const GuestSpan> spans);

  uint64_t remaining() const { return remaining_; }
  uint32_t written() const { return written_; }
  Result<> write(std::span<const std::byte> in);
  template <typename T>
  Result<> write_object(const T& value) {
    return write(std::as_bytes(std::span<const T, 1>(&value, 1)));
  }
  /// As ChainReader::take_iovecs(), counted as written.
  Result<size_t> take_iovecs(uint64_t size_bytes, std::span<iovec> out);
  /// The last `size_bytes` writable bytes, wherever the descriptors are cut (a block request's status byte), taken
  /// off the end.
  Result<GuestSpan> take_tail(uint64_t size_bytes);

 private:
  std::span<const GuestSpan> spans_;
  uint64_t offset_ = 0;
  uint64_t remaining_ = 0;
  uint32_t written_ = 0;
};

/// One request, checked. Valid only inside the handler it is given to.
struct Chain {
  /// The descriptor index to give back with Queue::complete().
  uint16_t head;
  ChainReader reader;
  ChainWriter writer;
};

/// What became of a chain.
struct Verdict {
  enum class Kind {
    kDone,   ///< used now, with `written` bytes
    kLater,  ///< the device calls complete() later
    kStop,   ///< not taken: put back, and drain() ends (no room, no data)
  };
  Kind kind;
  uint32_t written = 0;
};
inline Verdict done(uint32_t written) { return {Verdict::Kind::kDone, written}; }
inline Verdict later() { return {Verdict::Kind::kLater}; }
inline Verdict stop() { return {Verdict::Kind::kStop}; }

class Queue {
 public:
  Queue() = default;
  Queue(Queue&&) = default;
  Queue& operator=(Queue&&) = default;

  /// Takes the rings into use. Checks size (power of two, <= max_size), alignment and that all rings lie in RAM.
  /// `memory` outlives the queue's use.
  Result<> activate(const GuestMemory& memory, const QueueState& state, uint16_t max_size, bool event_idx,
                    bool indirect);
  /// Forgets everything; ready() is false.
  void reset();

  bool ready() const { return memory_ != nullptr && !broken_; }
  uint16_t size() const { return state_.size; }
  /// Where the queue stands now, for a snapshot.
  QueueState state() const { return state_; }

  /// Hands each available chain to `handler`: Chain& -> Result<Verdict>, until none is left (after telling the
  /// driver to notify again and looking once more) or the handler stops. Bounded: at most size() chains a call, so a
  /// guest that keeps adding cannot hold the loop; returns true where more may wait and the device must call again.
  template <typename Handler>
  Result<bool> drain(Handler&& handler);

  /// Puts a chain taken with later() into the used ring.
  void complete(uint16_t head, uint32_t written);

  /// True once per batch of used chains where the driver wants an interrupt for it (2.7.7, 2.7.10).
  bool take_interrupt();

  /// No notifications wanted, or wanted again: for devices that only poll their rx queue when they have data.
  void disable_notifications();

 private:
  struct Popped {
    bool available;
    Chain chain;
  };
  /// The next chain, or available == false.
  Result<Popped> pop();
  void undo_pop();
  /// Asks for a notification at the next chain; true where one has arrived meanwhile.
  bool enable_notifications();
  std::unexpected<Error> broken(std::unexpected<Error> error);

  const GuestMemory* memory_ = nullptr;
  QueueState state_;
  bool event_idx_ = false;
  bool indirect_ = false;
  bool broken_ = false;
  bool used_since_interrupt_ = false;
  uint16_t used_at_interrupt_ = 0;
  GuestSpan descriptors_;
  GuestSpan driver_area_;
  GuestSpan device_area_;
  std::vector<GuestSpan> scratch_;  // kMaxQueueSize spans, made by activate(): the data path never allocates
};

template <typename Handler>
Result<bool> Queue::drain(Handler&& handler) {
  if (!ready()) return false;
  for (uint16_t served = 0; served < state_.size;) {
    Popped next = TRY(pop());
    if (!next.available) {
      if (!enable_notifications()) return false;
      continue;
    }
    ++served;
    Result<Verdict> verdict = handler(next.chain);
    if (!verdict) return broken(std::unexpected(std::move(verdict).error()));
    if (verdict->kind == Verdict::Kind::kStop) {
      undo_pop();
      return false;
    }
    if (verdict->kind == Verdict::Kind::kDone) complete(next.chain.head, verdict->written);
  }
  return true;
}

}  // namespace mayfly::virtio
