// SPDX-License-Identifier: Apache-2.0
//
// The virtio devices a config asks for, in their slots: console, entropy, vsock, balloon, then
// network devices and disks. The order is the guest's: slot n is the n-th device in the DSDT, and
// what a claim brings comes last so that its number moves nothing else.
//
// Threads: the loop thread, outside the loop's dispatch; each call takes the device lock itself,
// but create(), which wants it held.
#pragma once

#include "base/console_ring.h"
#include "base/error.h"
#include "base/event/loop.h"
#include "base/memory/guest_memory.h"
#include "snapshot/state.h"
#include "virtio/balloon/balloon.h"
#include "virtio/blk/blk.h"
#include "virtio/console/console.h"
#include "virtio/net/net.h"
#include "virtio/rng/rng.h"
#include "virtio/vsock/vsock.h"
#include "vmm/bus/bus.h"
#include "vmm/kvm/kvm_sys.h"
#include "vmm/machine/config.h"
#include "vmm/machine/ioapic.h"
#include "vmm/machine/virtio_slot.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <variant>
#include <vector>

namespace mayfly {

class DeviceSet {
 public:
  /// All of it outlives the set. Files of disks, taps, streams of vsock and the console's input are
  /// taken out of `config`.
  struct Parts {
    MachineConfig& config;
    const GuestMemory& memory;
    Loop& loop;
    kvm::Vm& vm;
    Ioapic& ioapic;
    ConsoleRingWriter& console_ring;
    const std::atomic<bool>& ending;
  };

  static Result<std::unique_ptr<DeviceSet>> create(const Parts& parts);

  uint32_t count() const { return static_cast<uint32_t>(places_.size()); }
  /// The devices from number `first` on.
  void add_to(Bus& mmio, uint32_t first = 0) const;

  void freeze();
  void thaw();
  void serve_all();
  /// No backend touches guest RAM.
  bool idle();
  /// The guest sent data that its peers have not taken yet.
  bool has_unsent();

  /// In slot order. Frozen and idle.
  std::vector<snapshot::Device> save() const;
  /// Untrusted, for devices that no guest has touched and that are frozen: a state for each device
  /// from number `first` on. The guest is told that its vsock connections are gone. On an Error the
  /// set is of no more use.
  Result<> restore(std::span<const snapshot::Device> states, uint32_t first = 0);
  /// Adds a parked machine's network devices and disks, with their states, and gives the vsock
  /// device its identity. Everything is frozen; on an Error the set is of no more use.
  Result<> claim(ClaimConfig& config, std::span<const snapshot::Device> states);

  Result<> connect_vsock(uint32_t port, Fd stream);

  /// The target was checked; NO_BALLOON where there is none.
  Result<> set_balloon(uint32_t target_pages);
  Result<BalloonReport> balloon() const;
  /// 0: the guest is not asked.
  uint32_t stats_interval_s() const;
  void ask_for_stats();

  /// The devices' counters.
  MachineStats stats() const;

 private:
  /// By its kind, for what kinds do not share.
  using AnyDevice =
      std::variant<virtio::console::Console*, virtio::rng::Rng*, virtio::vsock::Vsock*,
                   virtio::balloon::Balloon*, virtio::net::Net*, virtio::blk::Blk*>;
  struct Place {
    std::unique_ptr<VirtioSlot> slot;
    AnyDevice device;  // the slot's
  };

  explicit DeviceSet(const Parts& parts) : parts_(parts) {}
  template <typename T>
  Result<> add(std::unique_ptr<T> device);
  Result<> restore_place(const Place& place, const snapshot::Device& state);
  Result<> add_console();
  Result<> add_vsock();
  Result<> add_balloon();
  Result<> need_balloon(const char* what) const;
  Result<> add_nets(std::vector<NetConfig>& nets);
  Result<std::unique_ptr<virtio::net::Backend>> open_net(NetConfig& config);
  Result<> add_disks(std::vector<DiskConfig>& disks);
  Result<> add_host_ports(VsockConfig& config);
  Result<> claim_vsock(ClaimConfig& config);

  Parts parts_;
  std::vector<Place> places_;
  virtio::vsock::Vsock* vsock_ = nullptr;
  virtio::balloon::Balloon* balloon_ = nullptr;
};

}  // namespace mayfly
