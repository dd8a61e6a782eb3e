// SPDX-License-Identifier: Apache-2.0
//
// Console output into the ring that the daemon reads (base/console_ring.h).
#pragma once

#include "base/console_ring.h"
#include "virtio/console/backend.h"

#include <cstddef>
#include <span>

namespace mayfly::virtio::console {

class RingSink final : public ConsoleSink {
 public:
  /// `ring` outlives the sink.
  explicit RingSink(ConsoleRingWriter& ring) : ring_(ring) {}

  void append(std::span<const std::byte> bytes) override { ring_.append(bytes); }

 private:
  ConsoleRingWriter& ring_;
};

}  // namespace mayfly::virtio::console
