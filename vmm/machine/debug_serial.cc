// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/debug_serial.h"

namespace mayfly {
namespace {

// 16550 datasheet, register map.
constexpr uint64_t kTransmit = 0;
constexpr uint64_t kLineControl = 3;
constexpr uint64_t kLineStatus = 5;
constexpr std::byte kDivisorLatchAccess{0x80};
constexpr std::byte kTransmitterEmpty{0x60};

}  // namespace

void DebugSerial::read(uint64_t offset, std::span<std::byte> data) {
  if (offset == kLineStatus) data[0] = kTransmitterEmpty;
}

void DebugSerial::write(uint64_t offset, std::span<const std::byte> data) {
  if (offset == kLineControl) divisor_latch_ = (data[0] & kDivisorLatchAccess) != std::byte{0};
  if (offset == kTransmit && !divisor_latch_) sink_.append(data.first(1));
}

}  // namespace mayfly
