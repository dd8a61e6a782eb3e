// SPDX-License-Identifier: Apache-2.0
#include "vmm/bus/bus.h"

#include <algorithm>

namespace mayfly {

void Bus::add(uint64_t start, uint64_t size, BusDevice& device) {
  CHECK(ranges_.size() < kMaxDevices);
  for (const Range& range : ranges_) {
    CHECK(start + size <= range.start || range.start + range.size <= start);
  }
  ranges_.push_back({start, size, &device});
}

const Bus::Range* Bus::find(uint64_t address, uint64_t size) const {
  for (const Range& range : ranges_) {
    if (address < range.start) continue;
    const uint64_t offset = address - range.start;
    if (size <= range.size && offset <= range.size - size) return &range;
  }
  return nullptr;
}

void Bus::read(uint64_t address, std::span<std::byte> data) const {
  if (const Range* range = find(address, data.size())) {
    std::ranges::fill(data, std::byte{0});
    range->device->read(address - range->start, data);
  } else {
    std::ranges::fill(data, std::byte{0xff});
  }
}

void Bus::write(uint64_t address, std::span<const std::byte> data) const {
  if (const Range* range = find(address, data.size())) {
    range->device->write(address - range->start, data);
  }
}

}  // namespace mayfly
