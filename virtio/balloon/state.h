// SPDX-License-Identifier: Apache-2.0
//
// What a snapshot holds of a balloon device. Which pages are in the balloon only the guest knows,
// and it needs no telling: they are pages like others, which come back when they are touched.
#pragma once

#include <cstdint>

namespace mayfly::virtio::balloon {

/// What the device offers. The same for all of its life, over saves and restores too.
struct Options {
  /// The guest takes pages back by itself where it runs out of memory.
  bool deflate_on_oom = false;
  bool free_page_reporting = false;
  /// 0: the guest is not asked for statistics.
  uint32_t stats_interval_s = 0;

  friend bool operator==(const Options&, const Options&) = default;
};

struct State {
  /// In pages of 4 KiB: what is asked for, and what the driver says it has given.
  uint32_t target_pages = 0;
  uint32_t actual_pages = 0;
  Options options;

  friend bool operator==(const State&, const State&) = default;
};

}  // namespace mayfly::virtio::balloon
