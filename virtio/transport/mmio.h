// SPDX-License-Identifier: Apache-2.0
//
// The virtio-mmio transport, version 2 (virtio 1.2, section 4.2): the registers of one device, its
// feature negotiation, status, queues and interrupt. It calls the device, never the reverse but
// through DeviceHost.
//
// Everything written to the registers, and the rings behind them, is a hostile guest's. What the
// specification forbids a driver is ignored where that is harmless; what breaks a running device
// sets DEVICE_NEEDS_RESET. Accesses of other widths or alignments than the register's read as zero
// and write nothing.
//
// Threads: read() and write() are called by vCPU threads, without the device lock: they take it,
// but for InterruptStatus, InterruptACK and QueueNotify, which are lock-free. What says so is
// called under the device lock, by any thread. DeviceHost's functions are the device's to call,
// under the lock.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "base/memory/guest_memory.h"
#include "virtio/device.h"
#include "virtio/queue/queue.h"
#include "virtio/transport/interrupt_line.h"
#include "virtio/transport/state.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace mayfly::virtio {

/// The most queues of a device.
inline constexpr size_t kMaxQueues = 8;

class MmioTransport final : public DeviceHost {
 public:
  using Held = std::unique_lock<std::mutex>;

  /// What a transport stands between. All of it outlives the transport, which gives the device up
  /// only when it is idle.
  struct Parts {
    Device& device;
    const GuestMemory& memory;
    /// The device lock.
    std::mutex& lock;
    InterruptLine& interrupt;
    /// Called by a vCPU thread that resets a device with requests in flight: releases the lock it
    /// is given, waits for the loop to dispatch something, takes the lock again
    /// (Loop::wait_for_batch). False: the machine is ending, wait no more.
    std::function<bool(Held&)> wait;
  };

  static Result<std::unique_ptr<MmioTransport>> create(Parts parts);

  MmioTransport(const MmioTransport&) = delete;
  MmioTransport& operator=(const MmioTransport&) = delete;

  /// A guest's access at `offset` from the transport's base; any offset, 1 to 8 bytes.
  void read(uint64_t offset, std::span<std::byte> data);
  void write(uint64_t offset, std::span<const std::byte> data);

  uint16_t queue_count() const { return static_cast<uint16_t>(kicks_.size()); }
  /// An eventfd, owned here, that means: the driver notified queue `index`. QueueNotify signals it,
  /// an ioeventfd may, a queue that has left chains behind does, and activation does, once. The
  /// machine has the loop watch it and answers with process_kick().
  FdRef kick_event(uint16_t index) const { return kicks_[index].ref(); }
  /// On the loop thread, under the lock. Spurious calls are harmless.
  void process_kick(uint16_t index);

  /// Under the lock. While frozen no chain is taken from any queue, whoever wants one (a kick,
  /// input from the host); requests that the device has still complete. thaw() has all queues
  /// notified again, from the loop, and repeats an interrupt that the guest has not acknowledged.
  void freeze();
  void thaw();

  /// Under the lock, with the device idle: frozen, and its requests completed.
  MmioState save() const;
  /// Under the lock, on a transport that no guest has touched, after the device's own restore().
  /// Activates the device where the state says so. On an Error nothing has happened.
  Result<> restore(const MmioState& state);

  // DeviceHost.
  void queue_used(uint16_t index) override;
  void config_changed() override;
  void needs_reset(const Error& error) override;

 private:
  /// The register map and what its rows call, in mmio_registers.cc.
  struct Register;
  struct H;
  static const Register kRegisters[];
  static const Register* find_register(uint64_t offset);
  uint32_t read_register(uint64_t offset);
  void write_register(uint64_t offset, uint32_t value);

  MmioTransport(Parts parts, std::vector<Fd> kicks);

  void write_status(uint32_t value, Held& held);
  uint64_t offered() const;
  bool features_acceptable(uint64_t features) const;
  bool has(uint32_t status_bits) const { return (status_ & status_bits) == status_bits; }
  Result<> activate_queues();
  Result<> check(const MmioState& state) const;
  void start_device();
  void notify_all();
  void reset(Held& held);
  void clear_registers();
  void update_frozen();
  void interrupt(uint32_t bit);
  void log_needs_reset(const Error& error);

  Parts parts_;
  const std::vector<Fd> kicks_;  // one per queue
  std::atomic<uint32_t> interrupt_status_ = 0;

  // Under the device lock.
  std::vector<Queue> queues_;
  std::array<QueueState, kMaxQueues> programmed_;  // as the driver wrote it
  uint64_t driver_features_ = 0;
  uint32_t device_features_sel_ = 0;
  uint32_t driver_features_sel_ = 0;
  uint32_t queue_sel_ = 0;
  uint32_t status_ = 0;
  uint32_t config_generation_ = 0;
  bool active_ = false;     // between Device::activate() and Device::reset()
  bool resetting_ = false;  // a vCPU thread waits for the device to be idle
  bool frozen_ = false;
  uint64_t last_log_ns_ = 0;
};

}  // namespace mayfly::virtio
