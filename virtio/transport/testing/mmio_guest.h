// SPDX-License-Identifier: Apache-2.0
//
// A guest's view of a virtio-mmio transport: 32-bit registers by offset, and the initialisation
// sequence of virtio 1.2, sections 3.1.1 and 4.2.3.
#pragma once

#include "virtio/queue/queue.h"
#include "virtio/transport/mmio.h"
#include "virtio/transport/wire.h"

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>

namespace mayfly::virtio::testing {

class MmioGuest {
 public:
  explicit MmioGuest(MmioTransport& transport) : transport_(transport) {}

  uint32_t get(uint64_t offset) const {
    std::array<std::byte, 4> data;
    transport_.read(offset, data);
    return std::bit_cast<uint32_t>(data);
  }
  void set(uint64_t offset, uint32_t value) const {
    transport_.write(offset, std::as_bytes(std::span(&value, 1)));
  }
  uint32_t status() const { return get(0x70); }

  uint64_t offered() const {
    set(0x14, 0);
    const uint64_t low = get(0x10);
    set(0x14, 1);
    return low | uint64_t{get(0x10)} << 32;
  }
  /// True where the device took the features.
  bool negotiate(uint64_t features) const {
    set(0x70, 0);
    set(0x70, status::kAcknowledge);
    set(0x70, status() | status::kDriver);
    for (uint32_t i = 0; i < 2; ++i) {
      set(0x24, i);
      set(0x20, static_cast<uint32_t>(features >> (32 * i)));
    }
    set(0x70, status() | status::kFeaturesOk);
    return (status() & status::kFeaturesOk) != 0;
  }
  void set_queue(uint32_t index, const QueueState& queue) const {
    set(0x30, index);
    set(0x38, queue.size);
    set_address(0x80, queue.descriptors);
    set_address(0x90, queue.driver_area);
    set_address(0xa0, queue.device_area);
    set(0x44, 1);
  }
  void driver_ok() const { set(0x70, status() | status::kDriverOk); }

 private:
  void set_address(uint64_t offset, Gpa address) const {
    set(offset, static_cast<uint32_t>(address.value));
    set(offset + 4, static_cast<uint32_t>(address.value >> 32));
  }

  MmioTransport& transport_;
};

}  // namespace mayfly::virtio::testing
