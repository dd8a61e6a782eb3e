// SPDX-License-Identifier: Apache-2.0
//
// All connections of one device, at most kMaxConnections: found by their ports, named by their slot
// in poll events, and served in turn from the list of those that have something for the guest.
//
// Threads: under the device lock.
#pragma once

#include "virtio/vsock/connection.h"

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

namespace mayfly::virtio::vsock {

inline constexpr uint16_t kMaxConnections = 1024;

class Table {
 public:
  Table();

  uint16_t size() const { return size_; }
  bool full() const { return size_ == kMaxConnections; }

  /// The connection between `ports`, or nullptr.
  Connection* find(Ports ports);
  Connection* at(size_t slot) const { return slot < slots_.size() ? slots_[slot].get() : nullptr; }
  /// A new one; the table is not full and has none between `ports`.
  Connection& insert(Ports ports, Loop& loop, ClientId client, Fd fd);
  /// find() does not see it any more, and it is not served.
  void hide(Connection& connection);
  /// Closes and destroys it.
  void erase(Connection& connection);

  /// To the end of the list of those to be served, once.
  void push_ready(Connection& connection);
  /// Off its front, or nullptr.
  Connection* pop_ready();
  bool any_ready() const { return ready_first_ != kNoSlot; }

 private:
  static constexpr size_t kBuckets = 1024;

  Slot& bucket(Ports ports);
  void unready(Connection& connection);

  uint16_t size_ = 0;
  std::array<Slot, kBuckets> buckets_;
  std::vector<std::unique_ptr<Connection>> slots_;
  std::vector<Slot> free_;
  Slot ready_first_ = kNoSlot;
  Slot ready_last_ = kNoSlot;
};

}  // namespace mayfly::virtio::vsock
