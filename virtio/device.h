// SPDX-License-Identifier: Apache-2.0
//
// What a virtio device is to its transport, and what the transport is to a device. No device knows
// the transport, KVM or another device (style rule 16).
//
// Threads: all device code runs under the VM's device lock (base/event/loop.h: Loop::lock()). The
// loop thread holds it while it dispatches kicks and completions; a vCPU thread holds it while it
// accesses registers. So a device has no locks of its own, and must not block.
#pragma once

#include "base/error.h"
#include "base/memory/guest_memory.h"
#include "virtio/queue/queue.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace mayfly::virtio {

/// Virtio device ids (virtio 1.2, section 5).
enum class DeviceType : uint32_t {
  kNet = 1,
  kBlock = 2,
  kConsole = 3,
  kEntropy = 4,
  kBalloon = 5,
  kVsock = 19,
};

/// Feature bits that belong to no device type (virtio 1.2, section 6).
inline constexpr uint64_t kFeatureIndirectDesc = uint64_t{1} << 28;
inline constexpr uint64_t kFeatureEventIdx = uint64_t{1} << 29;
inline constexpr uint64_t kFeatureVersion1 = uint64_t{1} << 32;

/// What a device may ask of its transport. Called under the device lock.
class DeviceHost {
 public:
  /// Used buffers wait in queue `index`: interrupts the guest where its event_idx or flags want it.
  virtual void queue_used(uint16_t index) = 0;
  /// The configuration space changed.
  virtual void config_changed() = 0;
  /// The driver broke the protocol: sets DEVICE_NEEDS_RESET, after which no queue is served until a
  /// reset. `error` is logged, rate-limited.
  virtual void needs_reset(const Error& error) = 0;

 protected:
  ~DeviceHost() = default;
};

/// What a driver reads at `offset` of a configuration space: zeroes beyond its end. Any offset.
inline void copy_config(std::span<const std::byte> config, uint64_t offset,
                        std::span<std::byte> out) {
  std::ranges::fill(out, std::byte{0});
  if (offset >= config.size()) return;
  const auto from = config.subspan(static_cast<size_t>(offset));
  std::copy_n(from.begin(), std::min(from.size(), out.size()), out.begin());
}

class Device {
 public:
  virtual ~Device() = default;

  virtual DeviceType type() const = 0;
  /// The device's own feature bits; the transport adds VERSION_1, EVENT_IDX and INDIRECT_DESC.
  virtual uint64_t features() const = 0;
  /// The largest size of each queue, a power of two each; their number is the number of queues.
  virtual std::span<const uint16_t> queue_sizes() const = 0;

  /// Configuration space at `offset`; what lies beyond it reads as zero and ignores writes. Hostile
  /// offsets.
  virtual void read_config(uint64_t offset, std::span<std::byte> out) const = 0;
  virtual void write_config(uint64_t offset, std::span<const std::byte> in) = 0;

  /// DRIVER_OK with `features` negotiated (a subset of those offered). `queues` are the
  /// transport's, one per queue_sizes() entry, live until reset(); a queue the driver did not
  /// enable has ready() == false.
  virtual void activate(DeviceHost& host, uint64_t features, std::span<Queue> queues) = 0;

  /// The driver kicked queue `index` (< queue_sizes().size()); only between activate() and reset().
  /// Spurious kicks are normal.
  virtual void queue_notified(uint16_t index) = 0;

  /// Back to the state before activate(). Requests in flight are abandoned: idle() tells when the
  /// last one has left guest memory alone.
  virtual void reset() = 0;

  /// No backend operation touches guest memory any more.
  virtual bool idle() const = 0;
};

}  // namespace mayfly::virtio
