// SPDX-License-Identifier: Apache-2.0
//
// The virtio socket device (virtio 1.2, section 5.10), stream sockets only. It joins ports of the
// guest with stream sockets that it was given; it opens and connects nothing itself.
//
// The guest connects to a host port: one socket, given by add_host_port(), is joined to the first
// REQUEST for it. Any other port is answered with RST. The host connects to a guest port: connect()
// sends the REQUEST from a port of its own choosing, as soon as a driver is there.
//
// Data goes from socket to guest buffers and from guest buffers to socket without a copy in
// between. What a socket does not take at once is kept, at most kSendBufferSize for each
// connection, which is also the credit that the guest gets. A peer that closes: the guest reads
// what came before, then an end, and its writes fail. A guest that closes, or is reset: what it
// sent before still reaches the peer.
//
// In a restored VM the guest's driver holds connections that are gone, and perhaps a CID that is
// not its own any more. reset_transport() tells it (5.10.6.7), and until it has heard, neither
// queue is served: what is in them may be about the old connections, and a new one would be ended
// with them.
//
// The guest controls every packet. Wrong CIDs are dropped and counted; unknown connections, types
// and operations, more data than credit, and packets out of turn are answered with RST; a chain
// that is too short for its packet or event breaks the protocol (NEEDS_RESET).
//
// Threads: virtio/device.h. activate() and reset() may run on a vCPU thread; create(), destruction
// and everything else on the loop thread, under the device lock.
#pragma once

#include "base/error.h"
#include "base/event/loop.h"
#include "base/fd.h"
#include "virtio/device.h"
#include "virtio/vsock/connection.h"
#include "virtio/vsock/packet.h"
#include "virtio/vsock/state.h"
#include "virtio/vsock/table.h"
#include "virtio/vsock/wire.h"

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace mayfly::virtio::vsock {

/// Host ports that wait for the guest at once.
inline constexpr size_t kMaxHostPorts = 64;

/// The host's own ports for connections to the guest: from here up to kPortAny.
inline constexpr uint32_t kFirstEphemeralPort = uint32_t{1} << 30;

/// What Loop::Limits::files must have for a device with `connections` open at once: each is watched
/// for data, and at times for room. A connection that finds no file left is refused.
constexpr uint32_t files_for(uint32_t connections) { return 1 + 2 * connections; }

/// Since creation; they never go back.
struct Counters {
  uint64_t rx_bytes = 0;     ///< payload to the guest
  uint64_t tx_bytes = 0;     ///< payload from the guest
  uint64_t connections = 0;  ///< established
  uint64_t refused = 0;      ///< the guest's requests answered with RST
  uint64_t dropped = 0;      ///< packets of the guest with a wrong CID
};

class Vsock final : public Device, private LoopClient {
 public:
  /// `guest_cid`: 3 to 2^32 - 2. `loop` outlives the device, which takes one client of it and
  /// files_for() its connections.
  static Result<std::unique_ptr<Vsock>> create(Loop& loop, uint64_t guest_cid);
  ~Vsock() override;

  /// In place of the one given to create(), before any guest has seen that.
  Result<> set_guest_cid(uint64_t guest_cid);
  /// The guest's first REQUEST for `port` is joined to `socket`, a connected stream socket.
  /// kAlreadyExists where another waits at this port.
  Result<> add_host_port(uint32_t port, Fd socket);
  /// Connects `socket`, a connected stream socket, to `port` of the guest: now, or when a driver is
  /// there. Success says that this is under way. A guest that refuses closes the socket, and so
  /// does a reset of the device after REQUEST.
  Result<> connect(uint32_t port, Fd socket);

  DeviceType type() const override { return DeviceType::kVsock; }
  uint64_t features() const override { return kFeatureStream; }
  std::span<const uint16_t> queue_sizes() const override { return kQueueSizes; }
  void read_config(uint64_t offset, std::span<std::byte> out) const override;
  void write_config(uint64_t offset, std::span<const std::byte> in) override;
  void activate(DeviceHost& host, uint64_t features, std::span<Queue> queues) override;
  void queue_notified(uint16_t index) override;
  void reset() override;
  /// Always: guest memory is only touched inside calls.
  bool idle() const override { return true; }

  const Counters& counters() const { return counters_; }
  /// Connections now, ending ones included.
  uint16_t connection_count() const { return table_.size(); }
  /// Bytes of the guest's that its peers have not taken yet: what is lost when the process ends
  /// now.
  uint64_t unsent_bytes() const;
  State save() const { return {.guest_cid = guest_cid_, .next_host_port = next_host_port_}; }
  /// Before activate(). The CID stays the one that is here, whatever the guest had.
  Result<> restore(const State& state);
  /// The guest's connections are gone: closes the host's ends, tells the driver, and serves it
  /// again when it has given back the buffer with the event, which says that it has done its part.
  /// A driver that is not there yet, or without event queue, is told nothing. After the transport's
  /// restore().
  void reset_transport();

 private:
  // rx, tx, event.
  static constexpr std::array<uint16_t, 3> kQueueSizes = {128, 128, 16};

  struct HostPort {
    uint32_t port;
    Fd socket;
  };

  /// The event that says so: none, waiting for a buffer, in the driver's hands.
  enum class TransportReset : uint8_t { kNone, kOwed, kTold };

  Vsock(Loop& loop, uint64_t guest_cid) : loop_(loop), guest_cid_(guest_cid) {}

  // vsock.cc: what comes from the host.
  void on_completion(uint32_t op, int32_t result) override;
  void on_wake();
  void on_readable(Connection& connection, uint32_t events);
  Result<uint32_t> free_host_port(uint32_t guest_port);
  void drop_connections();
  bool serving() const { return host_ != nullptr && transport_reset_ == TransportReset::kNone; }
  /// Serves both queues until neither can go on.
  void serve();

  // from_guest.cc: the tx queue.
  void serve_tx();
  Result<Verdict> take_packet(Chain& chain);
  void handle(const Header& header, ChainReader& payload);
  void handle_stray(const Header& header, Ports ports);
  void accept(Ports ports, const Header& header, Fd socket);
  void handle_known(Connection& connection, const Header& header, ChainReader& payload);
  void handle_connecting(Connection& connection, const Header& header);
  void handle_established(Connection& connection, const Header& header, ChainReader& payload);
  void handle_finished(Connection& connection, const Header& header);
  void handle_shutdown(Connection& connection, uint32_t flags);
  void handle_rst(Connection& connection);
  void take_data(Connection& connection, ChainReader& payload, uint32_t len);
  /// Sends what the buffer holds, as far as the socket takes it. May erase a lingering connection.
  void flush(Connection& connection);
  void on_send_failed(Connection& connection);

  // to_guest.cc: the event and rx queues, and how connections end.
  void serve_events();
  void tell_reset();
  void serve_rx();
  /// Puts a packet of the connection into the chain: its size, or 0 where there was none after all.
  uint32_t fill(Connection& connection, const Chain& chain);
  uint32_t fill_control(Connection& connection, const Chain& chain);
  uint32_t fill_data(Connection& connection, const Chain& chain);
  uint32_t put(const Chain& chain, const Header& header, uint32_t payload = 0);
  void add_pending(Connection& connection, uint8_t packets);
  void update_credit(Connection& connection);
  /// Ends what both halves allow to end.
  void settle(Connection& connection);
  void say_shutdown(Connection& connection, uint8_t flags);
  void finish(Connection& connection);
  void start_reset(Connection& connection);

  Loop& loop_;
  uint64_t guest_cid_;
  ClientId id_;
  Fd wake_;  // signalled by vCPU threads, which may not submit
  FileSlot wake_slot_;
  DeviceHost* host_ = nullptr;  // between activate() and reset()
  std::span<Queue> queues_;
  bool tx_paused_ = false;  // for want of room in strays_
  TransportReset transport_reset_ = TransportReset::kNone;
  uint16_t told_at_ = 0;  // the event queue's available() when the event was put into it
  bool queued_ = false;   // connections may be in Phase::kQueued
  bool dropped_ = false;  // connections may be in Phase::kDropped
  uint32_t next_host_port_ = kFirstEphemeralPort;
  Counters counters_;
  StrayQueue strays_;
  Table table_;
  std::vector<HostPort> host_ports_;          // at most kMaxHostPorts
  std::array<iovec, kMaxQueueSize> buffers_;  // of the chain at hand
};

}  // namespace mayfly::virtio::vsock
