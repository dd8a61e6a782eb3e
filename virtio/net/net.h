// SPDX-License-Identifier: Apache-2.0
//
// The virtio network device (virtio 1.2, section 5.1): one pair of queues and the control queue. It
// takes frames of a backend into the guest's buffers and the guest's frames to the backend, without
// a copy in between.
//
// The guest controls every chain and header. A receive buffer without room for a header, and a
// control command without room for its answer, break the protocol (NEEDS_RESET). A frame to send
// that is shorter than an Ethernet header, longer than the longest one, in more than kMaxPieces
// pieces or that the host does not take is dropped and counted; so is one to the guest that is too
// long for its buffers, or that leaves to the guest what it has not agreed to do.
//
// A guest that takes large segments has room for one (kMaxFrameBytes and a header) in all its
// receive buffers together, or, without mergeable ones, in each (5.1.6.3.1). Until it has, nothing
// is received.
//
// When the backend has lost its link the guest is told that it is down, and what it sends is
// dropped.
//
// A restored guest has the MAC address that it had, until somebody tells it another; the
// configuration space has this VM's.
//
// Threads: virtio/device.h. create() and destruction on the loop thread, under the device lock.
#pragma once

#include "base/error.h"
#include "virtio/device.h"
#include "virtio/net/backend.h"
#include "virtio/net/rx_buffers.h"
#include "virtio/net/state.h"
#include "virtio/net/wire.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <sys/uio.h>

namespace mayfly::virtio::net {

/// Since creation; they never go back.
struct Counters {
  uint64_t rx_frames = 0;
  uint64_t rx_bytes = 0;
  uint64_t rx_dropped = 0;
  uint64_t tx_frames = 0;
  uint64_t tx_bytes = 0;
  uint64_t tx_dropped = 0;
};

/// Enough for what a virtual machine's own network is made of: not a group address, not all zeroes.
Result<> check_mac(const MacAddress& mac);

class Net final : public Device, private BackendClient {
 public:
  static Result<std::unique_ptr<Net>> create(std::unique_ptr<Backend> backend,
                                             const MacAddress& mac, uint16_t mtu);

  DeviceType type() const override { return DeviceType::kNet; }
  uint64_t features() const override;
  std::span<const uint16_t> queue_sizes() const override { return kQueueSizes; }
  void read_config(uint64_t offset, std::span<std::byte> out) const override;
  void write_config(uint64_t offset, std::span<const std::byte> in) override;
  void activate(DeviceHost& host, uint64_t features, std::span<Queue> queues) override;
  void queue_notified(uint16_t index) override;
  void reset() override;
  /// Always: guest memory is only touched inside calls.
  bool idle() const override { return true; }

  const Counters& counters() const { return counters_; }
  State save() const { return {.mac = guest_mac_, .mtu = mtu_}; }
  /// Before activate(). The MTU must be what it was.
  Result<> restore(const State& state);
  /// Has the guest tell its network where it is now (5.1.6.5.4), where it can. After the
  /// transport's restore().
  void announce();

 private:
  static constexpr std::array<uint16_t, 3> kQueueSizes = {256, 256, 16};

  Net(std::unique_ptr<Backend> backend, const MacAddress& mac, uint16_t mtu);

  void on_frames_waiting() override;
  void on_room_to_send() override;
  void look_at_link();
  bool has(uint64_t feature) const { return (features_ & feature) == feature; }
  void agree_on_offloads();

  void serve_rx();
  Result<> serve_frames();
  uint64_t room() const;
  Result<bool> make_room();
  bool receive_frame();
  bool acceptable(const Header& header) const;

  void serve_tx();
  Result<Verdict> send_frame(Chain& chain);

  void serve_control();
  Result<Verdict> serve_command(Chain& chain);
  uint8_t run_command(const ControlHeader& command, ChainReader& data);

  const std::unique_ptr<Backend> backend_;
  const MacAddress mac_;
  const uint16_t mtu_;
  MacAddress guest_mac_;
  DeviceHost* host_ = nullptr;  // between activate() and reset()
  std::span<Queue> queues_;
  uint64_t features_ = 0;
  Offloads guest_does_;
  bool agreed_ = false;       // the backend knows guest_does_
  uint64_t wanted_room_ = 0;  // in chains, before a frame is received
  bool announces_ = false;    // config space says so
  bool is_link_up_ = true;    // the same
  Counters counters_;
  RxBuffers rx_;
  std::array<iovec, kMaxPieces> tx_pieces_;  // of the chain at hand
};

}  // namespace mayfly::virtio::net
