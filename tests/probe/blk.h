// SPDX-License-Identifier: Apache-2.0
//
// A block device as the probe's tests drive it. Virtio 1.2, 5.2.
#pragma once

#include "tests/probe/virtio.h"

namespace probe {

enum class BlkType : uint32_t { kIn = 0, kOut = 1, kFlush = 4, kGetId = 8 };
enum BlkStatus : uint8_t { kBlkOk = 0, kBlkIoError = 1, kBlkUnsupported = 2, kBlkNoStatus = 0xee };

inline constexpr uint64_t kBlkReadOnly = 1 << 5, kBlkFlush = 1 << 9;
inline constexpr uint32_t kSectorBytes = 512;

struct BlkHeader {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};
static_assert(sizeof(BlkHeader) == 16);

/// One request in flight: what the device reads and writes of it.
struct BlkRequest {
  BlkHeader header;
  uint8_t status;
  alignas(4096) uint8_t data[4096];
};

struct Blk {
  Device device{0};
  Queue& queue;
  uint64_t sectors = 0;

  /// Resets and starts the nth disk, with `features` beyond its usual ones; fails the test where
  /// there is none.
  void start(uint16_t queue_size = 128, uint64_t features = 0);
  /// One request to its end; `size` bytes of `request.data`. What the device says, or kBlkNoStatus.
  uint8_t run(BlkRequest& request, BlkType type, uint64_t sector, uint32_t size);
  /// Makes the request available without a kick.
  void add(BlkRequest& request, BlkType type, uint64_t sector, uint32_t size);
};

Blk& the_blk();

}  // namespace probe
