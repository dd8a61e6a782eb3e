// SPDX-License-Identifier: Apache-2.0
//
// One connection between a port of the guest and a port of the host: its credit, its halves, and
// what is still to be said to the guest about it. Decides nothing and talks to nobody: the device
// does (vsock.h).
//
// Both counters of each direction are free-running and wrap (5.10.6.3); the guest's are hostile.
#pragma once

#include "virtio/vsock/backend.h"
#include "virtio/vsock/send_buffer.h"
#include "virtio/vsock/wire.h"

#include <cstdint>

namespace mayfly::virtio::vsock {

struct Ports {
  uint32_t guest = 0;
  uint32_t host = 0;

  friend bool operator==(const Ports&, const Ports&) = default;
};

/// A place in the table.
using Slot = uint16_t;
inline constexpr Slot kNoSlot = 0xffff;

enum class Phase : uint8_t {
  kQueued,       ///< from the host, before the driver was there; the guest has not heard of it
  kConnecting,   ///< from the host; REQUEST is to go or gone
  kEstablished,  ///< both ways
  kFinished,     ///< the socket is closed and nothing moves any more; the guest has yet to end it
  kResetting,    ///< the socket is closed, RST is to go
  kLingering,    ///< the guest has ended it; what it sent before is still on its way to the socket
  kDropped,      ///< the device was reset; the loop thread has yet to close it
};

/// Packets to go to the guest. Each says how things stand when it goes, so one of each is enough:
/// nothing is lost and nothing piles up.
namespace pending {
inline constexpr uint8_t kRequest = 1;
inline constexpr uint8_t kResponse = 2;
inline constexpr uint8_t kCreditUpdate = 4;
inline constexpr uint8_t kCreditRequest = 8;
inline constexpr uint8_t kShutdown = 16;
}  // namespace pending

struct Connection {
  Connection(Slot at, Ports between, Loop& loop, ClientId client, Fd fd)
      : slot(at), ports(between), socket(loop, client, std::move(fd)) {}

  const Slot slot;
  const Ports ports;
  HostSocket socket;
  SendBuffer buffer;

  Phase phase = Phase::kQueued;
  uint8_t pending = 0;
  bool readable = false;          // the socket may have something to receive
  bool hung_up = false;           // its peer has closed both halves
  bool sending_failed = false;    // its peer takes nothing any more
  bool sending_ended = false;     // the guest's end was passed on
  bool credit_requested = false;  // since credit ran out
  uint8_t guest_shutdown = 0;     // kShutdown* that the guest said
  uint8_t host_shutdown = 0;      // kShutdown* that we say

  // Host to guest.
  uint32_t sent = 0;             // payload bytes sent to the guest
  uint32_t guest_forwarded = 0;  // of these, what it says its application took
  uint32_t guest_buffer = 0;     // how much it holds at most
  // Guest to host.
  uint32_t forwarded = 0;  // payload bytes that have left for the socket, or were dropped with it
  uint32_t forwarded_told = 0;  // as of the last packet to the guest

  // Where the table has it: lists by slot.
  Slot hash_next = kNoSlot;
  Slot ready_next = kNoSlot;
  Slot ready_previous = kNoSlot;
  bool is_ready = false;
  bool is_listed = false;

  /// Takes the credit that came with a packet. False where the guest claims to have taken what was
  /// never sent.
  bool take_credit(uint32_t buf_alloc, uint32_t fwd_cnt);
  /// Payload bytes that may go to the guest now.
  uint32_t credit() const;
  /// Credit to give back is worth a packet of its own.
  bool owes_credit() const { return forwarded - forwarded_told >= kSendBufferSize / 2; }

  /// Data may move to the guest, or credit be asked for.
  bool may_receive() const;
  bool has_work() const { return phase == Phase::kResetting || pending != 0 || may_receive(); }

  /// The header of a packet to the guest, with credit as it stands; takes note of having told.
  Header header(uint64_t guest_cid, uint16_t op, uint32_t len = 0, uint32_t flags = 0);
};

}  // namespace mayfly::virtio::vsock
