// SPDX-License-Identifier: Apache-2.0
//
// Who answers which guest addresses: one Bus for ports, one for device memory. Filled while the
// machine is built and fixed afterwards, so vCPU threads look it up without a lock; each device
// protects itself.
#pragma once

#include "base/error.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace mayfly {

/// A device as an address range. Called on vCPU threads, on several at once. Offset and width are
/// the guest's choice; `offset + data.size()` lies inside the range.
class BusDevice {
 public:
  /// Fills `data`, which comes zeroed.
  virtual void read(uint64_t offset, std::span<std::byte> data) = 0;
  virtual void write(uint64_t offset, std::span<const std::byte> data) = 0;

 protected:
  ~BusDevice() = default;
};

class Bus {
 public:
  static constexpr size_t kMaxDevices = 32;

  /// `device` outlives the bus. Overlaps are our own bug.
  void add(uint64_t start, uint64_t size, BusDevice& device);

  /// What nobody answers reads as all ones and swallows writes, as on a real bus.
  void read(uint64_t address, std::span<std::byte> data) const;
  void write(uint64_t address, std::span<const std::byte> data) const;

 private:
  struct Range {
    uint64_t start;
    uint64_t size;
    BusDevice* device;
  };
  const Range* find(uint64_t address, uint64_t size) const;

  std::vector<Range> ranges_;
};

}  // namespace mayfly
