// SPDX-License-Identifier: Apache-2.0
#include "virtio/vsock/vsock.h"

#include <algorithm>
#include <utility>

#include <poll.h>

namespace mayfly::virtio::vsock {
namespace {

// Poll events are named by slot and direction.
constexpr uint32_t readable_op(Slot slot) { return uint32_t{slot} * 2; }
constexpr uint32_t kWakeOp = uint32_t{kMaxConnections} * 2;

// Turns between the queues before others are served.
constexpr int kMaxTurns = 4;

Result<> check_cid(uint64_t cid) {
  if (cid >= kFirstGuestCid && cid <= kLastGuestCid) return {};
  return fail({Code::kInvalidArgument, "VSOCK_CID"},
              "vsock: guest CID %llu is not between %llu and %llu",
              static_cast<unsigned long long>(cid), static_cast<unsigned long long>(kFirstGuestCid),
              static_cast<unsigned long long>(kLastGuestCid));
}

}  // namespace

Result<std::unique_ptr<Vsock>> Vsock::create(Loop& loop, uint64_t guest_cid) {
  TRY(check_cid(guest_cid));
  std::unique_ptr<Vsock> vsock(new Vsock(loop, guest_cid));
  vsock->wake_ = TRY(Fd::event());
  vsock->id_ = TRY(loop.add_client(*vsock));
  vsock->wake_slot_ = TRY(loop.add_file(vsock->wake_.ref()));
  TRY(loop.poll(vsock->id_, vsock->wake_slot_, POLLIN, kWakeOp));
  vsock->host_ports_.reserve(kMaxHostPorts);
  return vsock;
}

Vsock::~Vsock() {
  if (wake_slot_.valid()) loop_.remove_file(wake_slot_);
  loop_.remove_client(id_);
}

Result<> Vsock::set_guest_cid(uint64_t guest_cid) {
  TRY(check_cid(guest_cid));
  guest_cid_ = guest_cid;
  return {};
}

Result<> Vsock::add_host_port(uint32_t port, Fd socket) {
  TRY(check_stream_socket(socket.ref()));
  if (port == kPortAny || port >= kFirstEphemeralPort) {
    return fail({Code::kInvalidArgument, "VSOCK_PORT"}, "vsock: host port %u is not below %u", port,
                kFirstEphemeralPort);
  }
  for (const HostPort& other : host_ports_) {
    if (other.port != port) continue;
    return fail({Code::kAlreadyExists, "VSOCK_PORT"}, "vsock: host port %u is taken", port);
  }
  if (host_ports_.size() == kMaxHostPorts) {
    return fail({Code::kResourceExhausted, "VSOCK_PORTS"}, "vsock: all %zu host ports are taken",
                kMaxHostPorts);
  }
  host_ports_.push_back({port, std::move(socket)});
  return {};
}

Result<uint32_t> Vsock::free_host_port(uint32_t guest_port) {
  // One more than there are connections: one of them is free.
  for (uint32_t i = 0; i <= kMaxConnections; ++i) {
    const uint32_t port = next_host_port_++;
    if (next_host_port_ == kPortAny) next_host_port_ = kFirstEphemeralPort;
    if (table_.find({.guest = guest_port, .host = port}) == nullptr) return port;
  }
  return fail({Code::kResourceExhausted, "VSOCK_PORTS"}, "vsock: no free host port");
}

Result<> Vsock::connect(uint32_t port, Fd socket) {
  TRY(check_stream_socket(socket.ref()));
  if (port == kPortAny) {
    return fail({Code::kInvalidArgument, "VSOCK_PORT"}, "vsock: %u is not a port", port);
  }
  if (table_.full()) {
    return fail({Code::kResourceExhausted, "VSOCK_CONNECTIONS"},
                "vsock: all %u connections are in use", kMaxConnections);
  }
  const uint32_t host_port = TRY(free_host_port(port));
  table_.insert({.guest = port, .host = host_port}, loop_, id_, std::move(socket));
  queued_ = true;
  if (host_ != nullptr) on_wake();
  return {};
}

void Vsock::read_config(uint64_t offset, std::span<std::byte> out) const {
  const Config config = {.guest_cid = guest_cid_};
  copy_config(std::as_bytes(std::span(&config, 1)), offset, out);
}

void Vsock::write_config(uint64_t, std::span<const std::byte>) {}

void Vsock::activate(DeviceHost& host, uint64_t, std::span<Queue> queues) {
  host_ = &host;
  queues_ = queues;
  signal_event(wake_.ref());
}

void Vsock::queue_notified(uint16_t index) {
  if (host_ == nullptr) return;
  serve_events();
  if (index == kTxQueue) serve_tx();
  if (index != kEventQueue) serve();
}

void Vsock::reset() {
  host_ = nullptr;
  queues_ = {};
  tx_paused_ = false;
  transport_reset_ = TransportReset::kNone;
  drop_connections();
}

void Vsock::reset_transport() {
  if (host_ == nullptr) return;
  drop_connections();
  if (queues_[kEventQueue].ready()) transport_reset_ = TransportReset::kOwed;
}

void Vsock::drop_connections() {
  strays_.clear();
  // Only the loop thread may close sockets that it polls.
  for (size_t slot = 0; slot < kMaxConnections; ++slot) {
    Connection* connection = table_.at(slot);
    if (connection == nullptr || connection->phase == Phase::kQueued) continue;
    table_.hide(*connection);
    if (connection->phase != Phase::kLingering) connection->phase = Phase::kDropped;
    dropped_ = true;
  }
  signal_event(wake_.ref());
}

uint64_t Vsock::unsent_bytes() const {
  uint64_t sum = 0;
  for (size_t slot = 0; slot < kMaxConnections; ++slot) {
    if (const Connection* connection = table_.at(slot)) sum += connection->buffer.size();
  }
  return sum;
}

Result<> Vsock::restore(const State& state) {
  TRY(check_cid(state.guest_cid));
  if (state.next_host_port < kFirstEphemeralPort || state.next_host_port == kPortAny) {
    return fail({Code::kDataLoss, "VSOCK_PORT"}, "vsock: saved next port %u is below %u",
                state.next_host_port, kFirstEphemeralPort);
  }
  next_host_port_ = state.next_host_port;
  return {};
}

void Vsock::on_completion(uint32_t op, int32_t result) {
  if (op == kWakeOp) {
    on_wake();
    return;
  }
  Connection* connection = table_.at(op / 2);
  if (connection == nullptr || connection->phase == Phase::kDropped) return;
  if (result < 0 && connection->phase == Phase::kLingering) {
    table_.erase(*connection);
  } else if (result < 0) {
    start_reset(*connection);
  } else if (op == readable_op(connection->slot)) {
    on_readable(*connection, static_cast<uint32_t>(result));
  } else {
    flush(*connection);
  }
  serve();
}

void Vsock::on_wake() {
  serve_events();
  const bool dropped = std::exchange(dropped_, false);
  const bool queued = serving() && std::exchange(queued_, false);
  for (size_t slot = 0; (dropped || queued) && slot < kMaxConnections; ++slot) {
    Connection* connection = table_.at(slot);
    if (connection == nullptr) continue;
    if (connection->phase == Phase::kDropped) {
      connection->phase = Phase::kLingering;
      flush(*connection);
    } else if (queued && connection->phase == Phase::kQueued) {
      connection->phase = Phase::kConnecting;
      add_pending(*connection, pending::kRequest);
    }
  }
  serve();
}

void Vsock::on_readable(Connection& connection, uint32_t events) {
  if (connection.phase != Phase::kEstablished) return;
  if ((events & POLLHUP) != 0) connection.hung_up = true;
  const bool host_ended = (connection.host_shutdown & kShutdownSend) != 0;
  const bool guest_reads = (connection.guest_shutdown & kShutdownReceive) == 0;
  if (host_ended || !guest_reads) {
    // Nothing more to receive, so nothing else would find out that nobody is left to send to.
    if (connection.hung_up) say_shutdown(connection, kShutdownBoth);
    return;
  }
  connection.readable = true;
  if (connection.has_work()) table_.push_ready(connection);
}

void Vsock::serve() {
  if (!serving()) return;
  for (int turn = 0; turn < kMaxTurns; ++turn) {
    serve_rx();
    if (!tx_paused_ || strays_.full()) return;
    serve_tx();
  }
  signal_event(wake_.ref());
}

}  // namespace mayfly::virtio::vsock
