// SPDX-License-Identifier: Apache-2.0
#include "daemon/memory_source.h"

#include "snapshot/memory_index.h"

namespace mayfly::daemon {

Result<> check_regions(const std::vector<MonitorRegion>& regions, uint64_t size_bytes) {
  uint64_t offset = 0;
  for (const MonitorRegion& region : regions) {
    const bool aligned = region.file_offset % snapshot::kChunkBytes == 0 &&
                         region.size_bytes % snapshot::kPageBytes == 0 &&
                         region.address % snapshot::kPageBytes == 0;
    const bool fits = region.size_bytes != 0 && region.size_bytes <= size_bytes - offset &&
                      region.address <= UINT64_MAX - region.size_bytes;
    if (!aligned || !fits || region.file_offset != offset) {
      return fail({Code::kUnavailable, "MONITOR_REPLY"},
                  "the monitor says that its memory at %llu goes on at %llu with %llu bytes",
                  static_cast<unsigned long long>(offset),
                  static_cast<unsigned long long>(region.file_offset),
                  static_cast<unsigned long long>(region.size_bytes));
    }
    offset += region.size_bytes;
  }
  if (offset == size_bytes) return {};
  return fail({Code::kUnavailable, "MONITOR_REPLY"},
              "the monitor says that it has mapped %llu bytes of memory, of %llu",
              static_cast<unsigned long long>(offset), static_cast<unsigned long long>(size_bytes));
}

}  // namespace mayfly::daemon
