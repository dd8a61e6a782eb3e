// SPDX-License-Identifier: Apache-2.0
//
// The guest's side of a socket device, for tests: a driver that keeps receive buffers filled, sends
// packets of any kind, and kicks when the device asked to be kicked, through eventfds and a real
// loop, as the transport does.
#pragma once

#include "base/event/loop.h"
#include "virtio/queue/testing/device_harness.h"
#include "virtio/vsock/vsock.h"

#include <array>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <poll.h>
#include <sys/socket.h>

namespace mayfly::virtio::vsock::testing {

using virtio::testing::DeviceHarness;
using virtio::testing::FakeDriver;
using virtio::testing::GuestBuffer;

struct Packet {
  Header header;
  std::string payload;
};

class GuestSide final : private LoopClient {
 public:
  static constexpr uint64_t kCid = 7;
  struct Options {
    size_t rx_buffers = 32;
    uint64_t rx_bytes = 4096;
    bool event_idx = true;
    uint16_t files = 64;
    bool activate = true;
  };

  GuestSide() : GuestSide(Options()) {}
  // MUST throughout: a test whose set-up fails has nothing to test.
  explicit GuestSide(const Options& options)
      : options_(options),
        loop_(MUST(Loop::create({.ring_entries = 256, .files = options.files, .clients = 4}))),
        device_(MUST(Vsock::create(*loop_, kCid))),
        id_(MUST(loop_->add_client(*this))) {
    for (uint32_t i = 0; i < kicks_.size(); ++i) {
      kicks_[i] = MUST(Fd::event());
      MUST(loop_->poll(id_, MUST(loop_->add_file(kicks_[i].ref())), POLLIN, i));
    }
    make_harness();
    if (options.activate) activate();
  }

  Vsock& device() { return *device_; }
  DeviceHarness& harness() { return *harness_; }
  Loop& loop() { return *loop_; }

  void activate() {
    harness_->activate();
    active_ = true;
    give_buffers(options_.rx_buffers);
  }
  /// As when the guest reboots: the old rings are gone.
  void reset() {
    active_ = false;
    device_->reset();
    rx_.clear();
    events_.clear();
    received_.clear();
    make_harness();
  }

  void give_buffers(size_t count) {
    for (size_t i = 0; i < count; ++i)
      give({driver(kRxQueue).writable(sizeof(Header)),
            driver(kRxQueue).writable(options_.rx_bytes)});
  }
  void give(const std::vector<GuestBuffer>& buffers) {
    rx_[driver(kRxQueue).add(buffers)] = buffers;
  }
  /// A buffer for an event, of `bytes`; as Linux gives eight.
  void give_event_buffer(uint64_t bytes = sizeof(Event)) {
    const GuestBuffer buffer = driver(kEventQueue).writable(bytes);
    events_[driver(kEventQueue).add({buffer})] = buffer;
  }
  /// The next event's id; its buffer is the driver's again, and not given back.
  std::optional<uint32_t> next_event() {
    settle();
    const auto used = driver(kEventQueue).take_used();
    if (!used) return std::nullopt;
    const GuestBuffer& buffer = events_[static_cast<uint16_t>(used->id)];
    const std::string bytes = driver(kEventQueue).text(buffer.range);
    Event event;
    CHECK(used->length == sizeof(event));
    bytes.copy(static_cast<char*>(static_cast<void*>(&event)), sizeof(event));
    return event.id;
  }

  /// Keep used receive buffers instead of giving them back: the device runs dry.
  bool hoard = false;

  Header header(uint16_t op, uint32_t guest_port, uint32_t host_port) const {
    Header made;
    made.src_cid = kCid;
    made.dst_cid = kHostCid;
    made.src_port = guest_port;
    made.dst_port = host_port;
    made.type = kTypeStream;
    made.op = op;
    made.buf_alloc = 256 * 1024;
    return made;
  }
  /// One packet, its payload's length in the header.
  void send(Header made, std::string_view payload = {}) {
    made.len = static_cast<uint32_t>(payload.size());
    std::vector<GuestBuffer> chain{driver(kTxQueue).readable_object(made)};
    if (!payload.empty()) chain.push_back(driver(kTxQueue).readable(payload));
    send_chain(chain);
  }
  void send(uint16_t op, uint32_t guest_port, uint32_t host_port, std::string_view payload = {}) {
    send(header(op, guest_port, host_port), payload);
  }
  void send_chain(const std::vector<GuestBuffer>& chain) {
    while (driver(kTxQueue).take_used()) --tx_under_way_;
    driver(kTxQueue).add(chain);
    ++tx_under_way_;
  }
  /// Chains that the device has not used yet.
  size_t tx_under_way() {
    while (driver(kTxQueue).take_used()) --tx_under_way_;
    return tx_under_way_;
  }

  /// Kicks where the device wants it, then one turn of the loop, without waiting.
  void turn() {
    for (uint16_t i = 0; active_ && i < kicks_.size(); ++i) {
      if (driver(i).kick_wanted()) signal_event(kicks_[i].ref());
    }
    loop_->wake();
    MUST(loop_->run_once());
    take_received();
  }
  void settle() {
    for (int i = 0; i < 8; ++i) turn();
  }

  /// The next packet to the guest; settles first where there is none yet.
  std::optional<Packet> next() {
    if (received_.empty()) settle();
    if (received_.empty()) return std::nullopt;
    Packet packet = std::move(received_.front());
    received_.pop_front();
    return packet;
  }
  /// The next packet's op, or 0.
  uint16_t next_op() {
    const auto packet = next();
    return packet ? packet->header.op : uint16_t{0};
  }

  /// Opens a connection from the guest; the host's end of it.
  Fd open(uint32_t guest_port, uint32_t host_port) {
    auto [ours, theirs] = MUST(Fd::socket_pair(SOCK_STREAM | SOCK_NONBLOCK));
    MUST(device_->add_host_port(host_port, std::move(theirs)));
    send(kOpRequest, guest_port, host_port);
    CHECK(next_op() == kOpResponse);
    return std::move(ours);
  }

  FakeDriver& driver(size_t index) { return harness_->driver(index); }

 private:
  void on_completion(uint32_t op, int32_t) override {
    if (active_) device_->queue_notified(static_cast<uint16_t>(op));
  }
  void make_harness() {
    old_.push_back(std::move(harness_));
    harness_ = std::make_unique<DeviceHarness>(
        *device_, DeviceHarness::Options{.memory_bytes = 16 * 1024 * 1024,
                                         .event_idx = options_.event_idx,
                                         .data_size = 4 * 1024 * 1024});
    for (size_t i = 0; i < kicks_.size(); ++i) harness_->queues()[i] = Queue(kicks_[i].ref());
    tx_under_way_ = 0;
  }
  void take_received() {
    while (const auto used = driver(kRxQueue).take_used()) {
      const std::vector<GuestBuffer> buffers = rx_[static_cast<uint16_t>(used->id)];
      std::string bytes;
      for (const GuestBuffer& buffer : buffers) bytes += driver(kRxQueue).text(buffer.range);
      Packet packet;
      CHECK(used->length >= sizeof(Header) && used->length <= bytes.size());
      bytes.copy(static_cast<char*>(static_cast<void*>(&packet.header)), sizeof(Header));
      packet.payload = bytes.substr(sizeof(Header), used->length - sizeof(Header));
      CHECK(packet.header.len == packet.payload.size());
      received_.push_back(std::move(packet));
      if (!hoard) give(buffers);
    }
  }

  const Options options_;
  std::unique_ptr<Loop> loop_;
  std::array<Fd, 3> kicks_;
  std::unique_ptr<Vsock> device_;
  ClientId id_;
  bool active_ = false;
  std::unique_ptr<DeviceHarness> harness_;
  std::vector<std::unique_ptr<DeviceHarness>> old_;
  std::map<uint16_t, std::vector<GuestBuffer>> rx_;
  std::map<uint16_t, GuestBuffer> events_;
  size_t tx_under_way_ = 0;
  std::deque<Packet> received_;
};

}  // namespace mayfly::virtio::vsock::testing
