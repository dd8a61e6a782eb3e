// SPDX-License-Identifier: Apache-2.0
//
// The balloon device's numbers (virtio 1.2, section 5.5). All is little-endian.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mayfly::virtio::balloon {

inline constexpr uint64_t kFeatureStatsVq = uint64_t{1} << 1;
inline constexpr uint64_t kFeatureDeflateOnOom = uint64_t{1} << 2;
inline constexpr uint64_t kFeatureReporting = uint64_t{1} << 5;

/// A page frame number is in units of this, whatever the guest's own page size (5.5.6).
inline constexpr uint64_t kPageBytes = 4096;

/// 5.5.4; the other fields belong to features that are not offered.
struct Config {
  uint32_t num_pages;
  uint32_t actual;
};
static_assert(sizeof(Config) == 8);
static_assert(offsetof(Config, actual) == 4);

/// 5.5.6.3.
struct [[gnu::packed]] Stat {
  uint16_t tag;
  uint64_t value;
};
static_assert(sizeof(Stat) == 10);
static_assert(offsetof(Stat, value) == 2);

}  // namespace mayfly::virtio::balloon
