// SPDX-License-Identifier: Apache-2.0
#include "virtio/vsock/table.h"

#include <utility>

namespace mayfly::virtio::vsock {

Table::Table() {
  buckets_.fill(kNoSlot);
  slots_.resize(kMaxConnections);
  free_.reserve(kMaxConnections);
  for (uint16_t slot = kMaxConnections; slot > 0; --slot) free_.push_back(slot - 1);
}

Slot& Table::bucket(Ports ports) {
  const uint64_t key = uint64_t{ports.guest} << 32 | ports.host;
  return buckets_[(key * 0x9e37'79b9'7f4a'7c15) >> 54];
}

Connection* Table::find(Ports ports) {
  for (Slot slot = bucket(ports); slot != kNoSlot; slot = slots_[slot]->hash_next) {
    if (slots_[slot]->ports == ports) return slots_[slot].get();
  }
  return nullptr;
}

Connection& Table::insert(Ports ports, Loop& loop, ClientId client, Fd fd) {
  CHECK(!full());
  const Slot slot = free_.back();
  free_.pop_back();
  ++size_;
  slots_[slot] = std::make_unique<Connection>(slot, ports, loop, client, std::move(fd));
  slots_[slot]->hash_next = std::exchange(bucket(ports), slot);
  slots_[slot]->is_listed = true;
  return *slots_[slot];
}

void Table::hide(Connection& connection) {
  unready(connection);
  if (!std::exchange(connection.is_listed, false)) return;
  Slot* link = &bucket(connection.ports);
  while (*link != connection.slot) link = &slots_[*link]->hash_next;
  *link = connection.hash_next;
}

void Table::erase(Connection& connection) {
  hide(connection);
  const Slot slot = connection.slot;
  slots_[slot].reset();
  free_.push_back(slot);
  --size_;
}

void Table::push_ready(Connection& connection) {
  if (std::exchange(connection.is_ready, true)) return;
  connection.ready_previous = ready_last_;
  connection.ready_next = kNoSlot;
  if (ready_last_ == kNoSlot) {
    ready_first_ = connection.slot;
  } else {
    slots_[ready_last_]->ready_next = connection.slot;
  }
  ready_last_ = connection.slot;
}

Connection* Table::pop_ready() {
  Connection* first = any_ready() ? slots_[ready_first_].get() : nullptr;
  if (first != nullptr) unready(*first);
  return first;
}

void Table::unready(Connection& connection) {
  if (!std::exchange(connection.is_ready, false)) return;
  const Slot previous = connection.ready_previous;
  const Slot next = connection.ready_next;
  (previous == kNoSlot ? ready_first_ : slots_[previous]->ready_next) = next;
  (next == kNoSlot ? ready_last_ : slots_[next]->ready_previous) = previous;
}

}  // namespace mayfly::virtio::vsock
