// SPDX-License-Identifier: Apache-2.0
//
// A console as plain data. Untrusted: Console::restore() checks it. Output already shown and input
// not yet read belong to the host.
#pragma once

#include <cstdint>

namespace mayfly::virtio::console {

struct State {
  /// Both 0: the guest was not told a size.
  uint16_t columns = 0;
  uint16_t rows = 0;

  friend bool operator==(const State&, const State&) = default;
};

}  // namespace mayfly::virtio::console
