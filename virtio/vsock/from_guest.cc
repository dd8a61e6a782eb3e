// SPDX-License-Identifier: Apache-2.0
//
// Packets from the guest: the tx queue's half of the device.
#include "virtio/vsock/vsock.h"

#include <algorithm>
#include <utility>

namespace mayfly::virtio::vsock {
namespace {

constexpr uint32_t readable_op(Slot slot) { return uint32_t{slot} * 2; }
constexpr uint32_t writable_op(Slot slot) { return uint32_t{slot} * 2 + 1; }

}  // namespace

void Vsock::serve_tx() {
  if (!serving()) return;
  tx_paused_ = false;
  bool used = false;
  const Result<bool> more = queues_[kTxQueue].drain([&](Chain& chain) -> Result<Verdict> {
    if (strays_.full()) {
      tx_paused_ = true;
      return stop();
    }
    Result<Verdict> verdict = take_packet(chain);
    used = used || verdict.has_value();
    return verdict;
  });
  if (used) host_->queue_used(kTxQueue);
  // Where more may wait, the queue has asked for another notification.
  if (!more) host_->needs_reset(more.error());
}

Result<Verdict> Vsock::take_packet(Chain& chain) {
  const Header header = TRY(read_packet(chain.reader));
  if (header.src_cid == guest_cid_ && header.dst_cid == kHostCid) {
    handle(header, chain.reader);
  } else {
    ++counters_.dropped;
  }
  return done(0);
}

void Vsock::handle(const Header& header, ChainReader& payload) {
  const Ports ports = {.guest = header.src_port, .host = header.dst_port};
  Connection* connection = header.type == kTypeStream ? table_.find(ports) : nullptr;
  if (connection != nullptr && connection->phase != Phase::kQueued) {
    handle_known(*connection, header, payload);
  } else {
    handle_stray(header, ports);
  }
}

void Vsock::handle_stray(const Header& header, Ports ports) {
  if (header.op == kOpRst) return;
  if (header.op == kOpRequest && header.type == kTypeStream && !table_.full()) {
    const auto found = std::ranges::find(host_ports_, ports.host, &HostPort::port);
    if (found != host_ports_.end()) {
      Fd socket = std::move(found->socket);
      host_ports_.erase(found);
      accept(ports, header, std::move(socket));
      return;
    }
  }
  if (header.op == kOpRequest) ++counters_.refused;
  strays_.push({.ports = ports, .type = header.type});
}

void Vsock::accept(Ports ports, const Header& header, Fd socket) {
  Connection& connection = table_.insert(ports, loop_, id_, std::move(socket));
  connection.phase = Phase::kEstablished;
  if (!connection.take_credit(header.buf_alloc, header.fwd_cnt) ||
      !connection.socket.watch_readable(readable_op(connection.slot))) {
    ++counters_.refused;
    start_reset(connection);
    return;
  }
  ++counters_.connections;
  add_pending(connection, pending::kResponse);
}

void Vsock::handle_known(Connection& connection, const Header& header, ChainReader& payload) {
  if (header.op == kOpRst) {
    handle_rst(connection);
    return;
  }
  if (connection.phase == Phase::kResetting) return;
  if (!connection.take_credit(header.buf_alloc, header.fwd_cnt)) {
    start_reset(connection);
    return;
  }
  switch (connection.phase) {
    case Phase::kConnecting:
      handle_connecting(connection, header);
      break;
    case Phase::kEstablished:
      handle_established(connection, header, payload);
      break;
    default:
      handle_finished(connection, header);
  }
}

void Vsock::handle_connecting(Connection& connection, const Header& header) {
  // A RESPONSE before the REQUEST has gone is a guess.
  if (header.op != kOpResponse || (connection.pending & pending::kRequest) != 0 ||
      !connection.socket.watch_readable(readable_op(connection.slot))) {
    start_reset(connection);
    return;
  }
  connection.phase = Phase::kEstablished;
  ++counters_.connections;
}

void Vsock::handle_established(Connection& connection, const Header& header, ChainReader& payload) {
  switch (header.op) {
    case kOpRw: {
      const bool ended = (connection.guest_shutdown & kShutdownSend) != 0;
      if (ended || header.len > connection.buffer.room()) {
        start_reset(connection);
        return;
      }
      take_data(connection, payload, header.len);
      break;
    }
    case kOpShutdown:
      handle_shutdown(connection, header.flags);
      return;
    case kOpCreditUpdate:
      break;
    case kOpCreditRequest:
      add_pending(connection, pending::kCreditUpdate);
      break;
    default:
      start_reset(connection);
      return;
  }
  if (connection.has_work()) table_.push_ready(connection);
}

void Vsock::handle_finished(Connection& connection, const Header& header) {
  switch (header.op) {
    case kOpRw:
      connection.forwarded += header.len;
      update_credit(connection);
      break;
    case kOpShutdown:
      handle_shutdown(connection, header.flags);
      break;
    case kOpCreditUpdate:
      break;
    case kOpCreditRequest:
      add_pending(connection, pending::kCreditUpdate);
      break;
    default:
      start_reset(connection);
  }
}

void Vsock::handle_shutdown(Connection& connection, uint32_t flags) {
  connection.guest_shutdown |= static_cast<uint8_t>(flags & kShutdownBoth);
  if ((connection.guest_shutdown & kShutdownReceive) != 0) {
    connection.readable = false;
    connection.socket.end_receiving();
    if (connection.hung_up) say_shutdown(connection, kShutdownBoth);
  }
  settle(connection);
}

void Vsock::handle_rst(Connection& connection) {
  if (connection.phase == Phase::kEstablished && !connection.buffer.empty()) {
    table_.hide(connection);
    connection.phase = Phase::kLingering;
    connection.readable = false;
  } else {
    table_.erase(connection);
  }
}

void Vsock::take_data(Connection& connection, ChainReader& payload, uint32_t len) {
  counters_.tx_bytes += len;
  if (len == 0) return;
  if (connection.sending_failed) {
    connection.forwarded += len;
    update_credit(connection);
    return;
  }
  uint32_t sent = 0;
  if (connection.buffer.empty()) {
    ChainReader ahead = payload;
    // Cannot fail: read_packet() saw `len` bytes, and a chain has no more pieces than buffers_.
    const size_t count = MUST(ahead.take_iovecs(len, buffers_));
    const IoResult result = connection.socket.send(std::span(buffers_).first(count));
    if (result.status == IoStatus::kFailed) {
      connection.forwarded += len;
      on_send_failed(connection);
      return;
    }
    sent = static_cast<uint32_t>(result.bytes);
    connection.forwarded += sent;
  }
  if (sent < len) {
    // Neither can fail: as above, and handle_established() has compared `len` with the room.
    MUST(payload.skip(sent));
    connection.buffer.append(payload, len - sent);
    if (!connection.socket.watch_writable(writable_op(connection.slot))) {
      start_reset(connection);
      return;
    }
  }
  update_credit(connection);
}

void Vsock::flush(Connection& connection) {
  while (!connection.buffer.empty()) {
    std::array<iovec, 2> pieces;
    const IoResult result = connection.socket.send(connection.buffer.front(pieces));
    if (result.status == IoStatus::kWouldBlock) break;
    if (result.status == IoStatus::kFailed) {
      on_send_failed(connection);
      return;
    }
    connection.buffer.consume(static_cast<uint32_t>(result.bytes));
    connection.forwarded += static_cast<uint32_t>(result.bytes);
  }
  if (connection.buffer.empty()) {
    if (connection.phase == Phase::kLingering) {
      table_.erase(connection);
      return;
    }
    connection.socket.unwatch_writable();
    settle(connection);
  }
  update_credit(connection);
}

void Vsock::on_send_failed(Connection& connection) {
  if (connection.phase == Phase::kLingering) {
    table_.erase(connection);
    return;
  }
  connection.sending_failed = true;
  connection.forwarded += connection.buffer.size();
  connection.buffer.clear();
  connection.socket.unwatch_writable();
  say_shutdown(connection, kShutdownReceive);
  update_credit(connection);
}

}  // namespace mayfly::virtio::vsock
