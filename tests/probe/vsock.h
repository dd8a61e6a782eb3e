// SPDX-License-Identifier: Apache-2.0
//
// What goes over a vsock device's queues. Virtio 1.2, 5.10.6.
#pragma once

#include <cstdint>

namespace probe {

inline constexpr uint32_t kVsockReceive = 0, kVsockTransmit = 1, kVsockEvent = 2;
inline constexpr uint16_t kVsockStream = 1;
inline constexpr uint64_t kVsockHostCid = 2;
inline constexpr uint16_t kVsockRequest = 1, kVsockResponse = 2, kVsockRst = 3, kVsockShutdown = 4,
                          kVsockRw = 5, kVsockCreditUpdate = 6;
inline constexpr uint32_t kVsockBothDirections = 3;

struct VsockHeader {
  uint64_t source_cid;
  uint64_t target_cid;
  uint32_t source_port;
  uint32_t target_port;
  uint32_t length;
  uint16_t type;
  uint16_t operation;
  uint32_t flags;
  uint32_t buffer;
  uint32_t forwarded;
} __attribute__((packed));
static_assert(sizeof(VsockHeader) == 44);

}  // namespace probe
