// SPDX-License-Identifier: Apache-2.0
//
// Packets in and out of chains, and the answers that need no connection.
#pragma once

#include "base/error.h"
#include "virtio/queue/chain.h"
#include "virtio/vsock/connection.h"
#include "virtio/vsock/wire.h"

#include <array>
#include <cstdint>

namespace mayfly::virtio::vsock {

/// The header at the front of a chain from the guest; its payload, all `len` of it, is what the
/// reader gives next. An Error breaks the protocol: no room for a header, or for the payload it
/// announces.
Result<Header> read_packet(ChainReader& reader);

/// A packet that belongs to no connection of ours, to be answered with RST.
struct Stray {
  Ports ports;
  uint16_t type = 0;
};

Header reset_for(const Stray& stray, uint64_t guest_cid);

/// The RSTs for strays that wait for a buffer of the guest. Where it is full, nothing more is taken
/// from the guest until it gives buffers: no answer is lost, and no guest makes it grow.
class StrayQueue {
 public:
  static constexpr uint16_t kCapacity = 128;

  bool empty() const { return size_ == 0; }
  bool full() const { return size_ == kCapacity; }
  /// Not full.
  void push(const Stray& stray);
  /// Not empty.
  Stray pop();
  void clear() { size_ = 0; }

 private:
  std::array<Stray, kCapacity> strays_;
  uint16_t first_ = 0;
  uint16_t size_ = 0;
};

}  // namespace mayfly::virtio::vsock
