// SPDX-License-Identifier: Apache-2.0
//
// An entropy device has nothing to remember: bytes are the host's of the moment, so that two guests
// made from one snapshot do not share them. The struct is here so that every device has one.
#pragma once

namespace mayfly::virtio::rng {

struct State {
  friend bool operator==(const State&, const State&) = default;
};

}  // namespace mayfly::virtio::rng
