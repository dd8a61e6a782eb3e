// SPDX-License-Identifier: Apache-2.0
//
// A block device as plain data. Untrusted: Blk::restore() checks it. Queues and negotiated features
// are the transport's; requests under way are not state: a snapshot is taken when the device is
// idle().
#pragma once

#include "virtio/blk/wire.h"

#include <array>
#include <cstdint>

namespace mayfly::virtio::blk {

struct State {
  uint64_t capacity_sectors = 0;
  bool read_only = false;
  std::array<char, kIdSize> serial = {};

  friend bool operator==(const State&, const State&) = default;
};

}  // namespace mayfly::virtio::blk
