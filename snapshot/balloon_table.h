// SPDX-License-Identifier: Apache-2.0
//
// How a balloon's options are encoded, in a manifest and in a state.
#pragma once

#include "base/wire_table.h"
#include "virtio/balloon/state.h"

namespace mayfly {

template <>
struct WireTable<virtio::balloon::Options> {
  static void fields(auto& wire, auto& options) {
    wire.number(1, "deflate_on_oom", options.deflate_on_oom);
    wire.number(2, "free_page_reporting", options.free_page_reporting);
    wire.number(3, "stats_interval_s", options.stats_interval_s);
  }
};

}  // namespace mayfly
