// SPDX-License-Identifier: Apache-2.0
//
// Events and packets to the guest: the event and rx queues' half of the device, and how connections
// end.
#include "virtio/vsock/vsock.h"

#include <algorithm>

namespace mayfly::virtio::vsock {
namespace {

// As large as Linux's own; a guest's buffers are smaller.
constexpr uint32_t kMaxPayload = 64 * 1024;

}  // namespace

void Vsock::serve_events() {
  if (transport_reset_ == TransportReset::kOwed) tell_reset();
  if (transport_reset_ != TransportReset::kTold) return;
  if (!queues_[kEventQueue].notify_beyond(told_at_)) return;
  transport_reset_ = TransportReset::kNone;
  // What the driver has notified us of meanwhile was left alone.
  tx_paused_ = true;
  signal_event(wake_.ref());
}

void Vsock::tell_reset() {
  Queue& queue = queues_[kEventQueue];
  const Result<bool> more = queue.drain([&](Chain& chain) -> Result<Verdict> {
    if (transport_reset_ == TransportReset::kTold) return stop();
    if (chain.writer.remaining() < sizeof(Event)) {
      return fail({Code::kInvalidArgument, "VSOCK_EVENT_BUFFER"},
                  "vsock: an event buffer of %llu bytes has no room for an event of %zu",
                  static_cast<unsigned long long>(chain.writer.remaining()), sizeof(Event));
    }
    // Cannot fail: there is room.
    MUST(chain.writer.write_object(Event{.id = kEventTransportReset}));
    // As of before the driver can see the event.
    told_at_ = queue.available();
    transport_reset_ = TransportReset::kTold;
    return done(sizeof(Event));
  });
  if (transport_reset_ == TransportReset::kTold) host_->queue_used(kEventQueue);
  if (!more) host_->needs_reset(more.error());
}

void Vsock::serve_rx() {
  if (!serving() || (strays_.empty() && !table_.any_ready())) return;
  Queue& queue = queues_[kRxQueue];
  bool used = false;
  bool quiet = false;
  const Result<bool> more = queue.drain([&](Chain& chain) -> Result<Verdict> {
    if (chain.writer.remaining() < sizeof(Header)) {
      return fail({Code::kInvalidArgument, "VSOCK_RX_BUFFER"},
                  "vsock: a receive buffer of %llu bytes has no room for a header of %zu",
                  static_cast<unsigned long long>(chain.writer.remaining()), sizeof(Header));
    }
    uint32_t size = 0;
    if (!strays_.empty()) size = put(chain, reset_for(strays_.pop(), guest_cid_));
    while (size == 0) {
      Connection* connection = table_.pop_ready();
      if (connection == nullptr) {
        quiet = true;
        return stop();
      }
      size = fill(*connection, chain);
    }
    used = true;
    return done(size);
  });
  if (used) host_->queue_used(kRxQueue);
  if (!more) {
    host_->needs_reset(more.error());
  } else if (quiet) {
    // The guest need not tell of more buffers until we miss them.
    queue.disable_notifications();
  }
}

uint32_t Vsock::put(const Chain& chain, const Header& header, uint32_t payload) {
  ChainWriter writer = chain.writer;
  // Cannot fail: serve_rx() checked that there is room.
  MUST(writer.write_object(header));
  return static_cast<uint32_t>(sizeof(Header)) + payload;
}

uint32_t Vsock::fill(Connection& connection, const Chain& chain) {
  if (connection.phase == Phase::kResetting) {
    const uint32_t size = put(chain, connection.header(guest_cid_, kOpRst));
    table_.erase(connection);
    return size;
  }
  constexpr uint8_t kFirst = pending::kRequest | pending::kResponse;
  uint32_t size = 0;
  if ((connection.pending & kFirst) == 0 && connection.may_receive()) {
    // Data carries credit as well, so it goes before credit alone.
    size = fill_data(connection, chain);
  }
  if (size == 0 && connection.phase != Phase::kResetting) size = fill_control(connection, chain);
  if (connection.has_work()) table_.push_ready(connection);
  return size;
}

uint32_t Vsock::fill_control(Connection& connection, const Chain& chain) {
  const auto take = [&](uint8_t packet) {
    const bool wanted = (connection.pending & packet) != 0;
    connection.pending &= static_cast<uint8_t>(~packet);
    return wanted;
  };
  if (take(pending::kRequest)) return put(chain, connection.header(guest_cid_, kOpRequest));
  if (take(pending::kResponse)) return put(chain, connection.header(guest_cid_, kOpResponse));
  if (take(pending::kCreditRequest)) {
    return put(chain, connection.header(guest_cid_, kOpCreditRequest));
  }
  if (take(pending::kCreditUpdate)) {
    return put(chain, connection.header(guest_cid_, kOpCreditUpdate));
  }
  if (take(pending::kShutdown)) {
    return put(chain, connection.header(guest_cid_, kOpShutdown, 0, connection.host_shutdown));
  }
  return 0;
}

uint32_t Vsock::fill_data(Connection& connection, const Chain& chain) {
  if (connection.credit() == 0) {
    connection.credit_requested = true;
    connection.pending |= pending::kCreditRequest;
    return 0;
  }
  ChainWriter writer = chain.writer;
  // Neither can fail: the header has room, and buffers_ as many places as a chain has pieces.
  MUST(writer.take_iovecs(sizeof(Header), buffers_));
  const uint64_t room =
      std::min<uint64_t>(writer.remaining(), std::min(connection.credit(), kMaxPayload));
  // A buffer for a header alone is used for one, so that the next may be larger.
  if (room == 0) return put(chain, connection.header(guest_cid_, kOpCreditUpdate));
  const size_t count = MUST(writer.take_iovecs(room, buffers_));
  const IoResult got = connection.socket.receive(std::span(buffers_).first(count));
  switch (got.status) {
    case IoStatus::kMoved: {
      const auto size = static_cast<uint32_t>(got.bytes);
      connection.sent += size;
      counters_.rx_bytes += size;
      return put(chain, connection.header(guest_cid_, kOpRw, size), size);
    }
    case IoStatus::kWouldBlock:
      connection.readable = false;
      return 0;
    case IoStatus::kEnd:
      connection.readable = false;
      say_shutdown(connection, connection.hung_up ? kShutdownBoth : kShutdownSend);
      return 0;
    case IoStatus::kFailed:
      start_reset(connection);
      return 0;
  }
  return 0;
}

void Vsock::add_pending(Connection& connection, uint8_t packets) {
  connection.pending |= packets;
  table_.push_ready(connection);
}

void Vsock::update_credit(Connection& connection) {
  const bool known =
      connection.phase == Phase::kEstablished || connection.phase == Phase::kFinished;
  if (known && connection.owes_credit()) add_pending(connection, pending::kCreditUpdate);
}

void Vsock::say_shutdown(Connection& connection, uint8_t flags) {
  const auto said = static_cast<uint8_t>(connection.host_shutdown | flags);
  if (said == connection.host_shutdown) return;
  connection.host_shutdown = said;
  add_pending(connection, pending::kShutdown);
  settle(connection);
}

void Vsock::settle(Connection& connection) {
  if (connection.phase != Phase::kEstablished && connection.phase != Phase::kFinished) return;
  // With nobody at the other end, what is still to be sent is dropped.
  if (connection.host_shutdown == kShutdownBoth) finish(connection);
  if ((connection.guest_shutdown & kShutdownSend) != 0 && connection.buffer.empty()) {
    if (connection.guest_shutdown == kShutdownBoth) {
      // The guest waits for this before it forgets the connection.
      start_reset(connection);
      return;
    }
    if (!connection.sending_ended) connection.socket.end_sending();
    connection.sending_ended = true;
  }
  const bool host_ended = (connection.host_shutdown & kShutdownSend) != 0;
  if (connection.sending_ended && host_ended) finish(connection);
}

void Vsock::finish(Connection& connection) {
  connection.phase = Phase::kFinished;
  connection.readable = false;
  connection.socket.close();
  connection.forwarded += connection.buffer.size();
  connection.buffer.clear();
}

void Vsock::start_reset(Connection& connection) {
  connection.phase = Phase::kResetting;
  connection.readable = false;
  connection.pending = 0;
  connection.socket.close();
  connection.buffer.clear();
  table_.push_ready(connection);
}

}  // namespace mayfly::virtio::vsock
