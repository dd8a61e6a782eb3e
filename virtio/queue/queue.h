// SPDX-License-Identifier: Apache-2.0
//
// The split virtqueue of one device queue (virtio 1.2, section 2.7): rings, descriptor chains,
// indirect tables and notification suppression. Knows no device and no transport. It is the only
// code that touches avail, used, event_idx and the fences between them.
//
// Everything in the rings comes from a hostile guest and is read once. A chain is walked, checked
// and copied whole before a device sees it: at most size() descriptors in all, no loop, every
// buffer inside RAM, readable ones before writable ones, at most 2^32 - 1 bytes, and a head that is
// not in flight already. Anything else is an Error that the device passes to
// DeviceHost::needs_reset(); the queue then serves nothing until it is reset. A buffer of no bytes
// adds nothing, wherever it points. Buffers may overlap each other and the rings: every access
// copies, so a guest that does it garbles its own data only.
//
// Threads: under the device lock (virtio/device.h).
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "base/memory/guest_memory.h"
#include "virtio/queue/chain.h"
#include "virtio/queue/wire.h"

#include <bitset>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace mayfly::virtio {

/// The largest queue any device offers. Bounds a chain and the scratch space for it.
inline constexpr uint16_t kMaxQueueSize = 256;

/// Where the driver put the rings, and how far both sides are: everything a queue is, as untrusted
/// plain data.
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

/// What drain() does once the ring is empty: asks for notifications, and looks once more; or leaves
/// it to a drain() that comes soon, and would rather have none until then.
enum class WhenEmpty : uint8_t { kNotify, kComeBack };

class Queue {
 public:
  Queue() = default;
  /// `wake` is the queue's kick eventfd, which drain() signals where it leaves chains behind; it
  /// outlives the queue.
  explicit Queue(FdRef wake) : wake_(wake) {}
  Queue(Queue&&) = default;
  Queue& operator=(Queue&&) = default;

  /// Takes the rings into use. Checks size (power of two, <= max_size), alignment and that all
  /// rings lie in RAM. `memory` outlives the queue's use.
  Result<> activate(const GuestMemory& memory, const QueueState& state, uint16_t max_size,
                    bool event_idx, bool indirect);
  /// Forgets everything but the wake event; ready() is false.
  void reset();

  bool ready() const { return memory_ != nullptr && !broken_; }
  /// While frozen, drain() hands out nothing, as if the ring were empty; chains that the device has
  /// can be completed. Lasts over reset() and activate(). The transport notifies after a thaw.
  void set_frozen(bool frozen) { frozen_ = frozen; }
  uint16_t size() const { return state_.size; }
  /// Where the queue stands now, for a snapshot.
  QueueState state() const { return state_; }

  /// Hands each available chain to `handler`: Chain& -> Result<Verdict>, until none is left (after
  /// telling the driver to notify again and looking once more) or the handler stops. Bounded: at
  /// most size() chains a call, so a guest that keeps adding cannot hold the loop. True where more
  /// may wait: the queue has then signalled its wake event, so that the device is notified once
  /// more and need not remember (with kComeBack it comes back anyway).
  template <typename Handler>
  Result<bool> drain(Handler&& handler, WhenEmpty when_empty = WhenEmpty::kNotify);

  /// Puts a chain taken with later() into the used ring. Ignored where the queue is not ready.
  void complete(uint16_t head, uint32_t written);

  /// Puts the chain that was taken last with later(), and not completed or put back since, back
  /// into the ring, as if it had never been taken. Ignored where the queue is not ready.
  void put_back(uint16_t head);

  /// Has the device notified once more, as by the driver: there may be more to do.
  void notify_again();

  /// True once per batch of used chains where the driver wants an interrupt for it (2.7.7, 2.7.10).
  bool take_interrupt();

  /// No notifications wanted until drain() next finds the ring empty: for devices that poll their
  /// rx queue only when they have data. A hint: the driver may notify all the same.
  void disable_notifications();

  /// The driver's index: it goes up by one with each chain that is made available, and wraps.
  /// Hostile; 0 where the queue is not ready.
  uint16_t available() const;
  /// Asks for a notification when the driver goes beyond `index`; true where it has already.
  bool notify_beyond(uint16_t index);

 private:
  /// A chain as it is collected: `readable` spans of scratch_, then writable ones, `spans` in all.
  struct Walk {
    uint16_t descriptors = 0;
    uint16_t spans = 0;
    uint16_t readable = 0;
    bool writing = false;
    uint64_t bytes = 0;
  };
  /// False where there is none.
  Result<bool> pop(Chain& chain);
  Result<> walk(uint16_t head, Chain& chain);
  Result<> add_buffer(const Descriptor& descriptor, Walk& walk);
  Result<GuestSpan> indirect_table(const Descriptor& descriptor) const;
  std::unexpected<Error> broken(std::unexpected<Error> error);

  const GuestMemory* memory_ = nullptr;
  FdRef wake_;
  QueueState state_;
  bool event_idx_ = false;
  bool indirect_ = false;
  bool broken_ = false;
  bool frozen_ = false;
  bool used_since_interrupt_ = false;
  bool interrupted_before_ = false;
  uint16_t used_at_interrupt_ = 0;
  std::bitset<kMaxQueueSize> in_flight_;  // heads between pop() and complete()
  GuestSpan descriptors_;
  GuestSpan driver_area_;
  GuestSpan device_area_;
  std::vector<GuestSpan> scratch_;  // size() spans, made by activate(): no allocation after it
};

template <typename Handler>
Result<bool> Queue::drain(Handler&& handler, WhenEmpty when_empty) {
  if (!ready()) return false;
  const bool comes_back = when_empty == WhenEmpty::kComeBack;
  if (comes_back) disable_notifications();
  // Frozen is asked each time: a handler may find what makes the transport stop the device.
  // Looking again after an empty ring counts too: a guest may move its index back and forth.
  Chain chain;
  for (uint16_t turn = 0; turn < state_.size; ++turn) {
    if (frozen_) return false;
    if (!TRY(pop(chain))) {
      if (comes_back || !notify_beyond(state_.next_avail)) return false;
      continue;
    }
    Result<Verdict> verdict = handler(chain);
    if (!verdict) return broken(std::unexpected(std::move(verdict).error()));
    if (verdict->kind == Verdict::Kind::kStop) {
      put_back(chain.head);
      return false;
    }
    if (verdict->kind == Verdict::Kind::kDone) complete(chain.head, verdict->written);
  }
  if (!comes_back) notify_again();
  return true;
}

}  // namespace mayfly::virtio
