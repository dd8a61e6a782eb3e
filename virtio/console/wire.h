// SPDX-License-Identifier: Apache-2.0
//
// The console device's numbers and configuration space (virtio 1.2, section 5.3).
#pragma once

#include <cstddef>
#include <cstdint>

namespace mayfly::virtio::console {

/// receiveq(port0) and transmitq(port0), as the driver sees them.
inline constexpr uint16_t kReceiveQueue = 0;
inline constexpr uint16_t kTransmitQueue = 1;

/// VIRTIO_CONSOLE_F_SIZE.
inline constexpr uint64_t kFeatureSize = 1 << 0;

/// struct virtio_console_config. Ports and emergency writes are features that are not offered.
struct Config {
  uint16_t columns;
  uint16_t rows;
  uint32_t max_ports;
  uint32_t emergency_write;
};
static_assert(sizeof(Config) == 12);
static_assert(offsetof(Config, rows) == 2);
static_assert(offsetof(Config, max_ports) == 4);
static_assert(offsetof(Config, emergency_write) == 8);

}  // namespace mayfly::virtio::console
