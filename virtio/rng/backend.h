// SPDX-License-Identifier: Apache-2.0
//
// Where entropy comes from. Threads: the loop thread.
#pragma once

#include "base/error.h"

#include <cstddef>
#include <span>

namespace mayfly::virtio::rng {

class EntropySource {
 public:
  virtual ~EntropySource() = default;

  /// Fills all of `out`, without blocking.
  virtual Result<> fill(std::span<std::byte> out) = 0;
};

/// The host kernel's generator, by getrandom(2).
class KernelEntropy final : public EntropySource {
 public:
  Result<> fill(std::span<std::byte> out) override;
};

}  // namespace mayfly::virtio::rng
