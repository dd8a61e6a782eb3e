// SPDX-License-Identifier: Apache-2.0
//
// Everything a virtio-mmio transport is, as plain, untrusted data: MmioTransport::restore() checks
// it like guest input.
#pragma once

#include "virtio/queue/queue.h"

#include <cstdint>
#include <vector>

namespace mayfly::virtio {

struct MmioState {
  uint32_t device_type = 0;
  uint32_t status = 0;
  uint64_t driver_features = 0;
  uint32_t device_features_sel = 0;
  uint32_t driver_features_sel = 0;
  uint32_t queue_sel = 0;
  uint32_t interrupt_status = 0;
  uint32_t config_generation = 0;
  std::vector<QueueState> queues;

  friend bool operator==(const MmioState&, const MmioState&) = default;
};

}  // namespace mayfly::virtio
