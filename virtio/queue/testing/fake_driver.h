// SPDX-License-Identifier: Apache-2.0
//
// The driver's side of one queue, for tests: builds rings and chains in guest memory as a guest
// would, well or badly, and reads the used ring. Its memory is one piece from `base` on: the rings,
// then `data_size` bytes for buffers, handed out in turn and taken up again from the start when all
// are spent, so a test that keeps old buffers must give it enough.
#pragma once

#include "base/memory/guest_memory.h"
#include "virtio/queue/queue.h"
#include "virtio/queue/wire.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly::virtio::testing {

/// RAM for a test, filled with zeroes.
GuestMemory make_memory(uint64_t size_bytes);

/// A buffer of a chain.
struct GuestBuffer {
  GuestRange range;
  bool device_writes = false;
};

class FakeDriver {
 public:
  struct Options {
    Gpa base{0x10000};
    uint16_t size = 8;
    bool event_idx = false;
    uint64_t data_size = 64 * 1024;
  };

  FakeDriver(const GuestMemory& memory, const Options& options);

  /// Empty rings again, as a driver makes them after a device reset.
  void reset();

  /// The queue as the driver would program it.
  QueueState queue_state() const;
  /// The first address after everything this driver uses.
  Gpa end() const;

  // Buffers.
  /// Device-readable, holding `bytes`.
  GuestBuffer readable(std::span<const std::byte> bytes);
  GuestBuffer readable(std::string_view text);
  template <typename T>
  GuestBuffer readable_object(const T& value) {
    return readable(std::as_bytes(std::span<const T, 1>(&value, 1)));
  }
  /// Device-writable, filled with 0xa5.
  GuestBuffer writable(uint64_t size_bytes);
  std::vector<std::byte> contents(GuestRange range) const;
  std::string text(GuestRange range) const;

  // Chains. Each returns the head; the descriptors are free again once take_used() returned it.
  uint16_t add(const std::vector<GuestBuffer>& buffers);
  uint16_t add_indirect(const std::vector<GuestBuffer>& buffers);
  /// As above, without making the chain available.
  uint16_t build(const std::vector<GuestBuffer>& buffers);

  /// Whether the device asked to be notified of what was made available since the last call.
  bool kick_wanted();
  /// The next used chain.
  std::optional<UsedElement> take_used();
  /// Asks for an interrupt at the next used chain, as a driver does when it has found no more.
  void want_interrupt();

  // The raw rings.
  void write_descriptor(uint16_t index, const Descriptor& descriptor);
  void make_available(uint16_t head);
  void set_avail_index(uint16_t index);
  uint16_t avail_index() const { return avail_index_; }
  void set_avail_flags(uint16_t flags);
  void set_used_event(uint16_t event);
  uint16_t used_index() const;
  uint16_t used_flags() const;
  uint16_t avail_event() const;
  /// Both sides start at `index`, for wrap-around tests: also sets queue_state().
  void start_at(uint16_t index);

 private:
  Gpa allocate(uint64_t size_bytes);
  void store_u16(uint64_t ring_offset, uint16_t value);

  const GuestMemory* memory_;
  Options options_;
  uint64_t avail_at_ = 0;  // offsets from base
  uint64_t used_at_ = 0;
  uint64_t data_at_ = 0;
  uint64_t data_used_ = 0;
  GuestSpan span_;
  std::vector<uint16_t> free_;
  std::vector<std::vector<uint16_t>> chains_;  // by head: the descriptors it uses
  uint16_t start_ = 0;
  uint16_t avail_index_ = 0;
  uint16_t kicked_index_ = 0;
  uint16_t taken_used_ = 0;
};

}  // namespace mayfly::virtio::testing
