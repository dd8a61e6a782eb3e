// SPDX-License-Identifier: Apache-2.0
//
// A network device as plain data. Untrusted: Net::restore() checks it. No frame is state: those
// under way are lost, as on any wire.
#pragma once

#include "virtio/net/wire.h"

namespace mayfly::virtio::net {

struct State {
  /// What the guest goes by until it is told of another.
  MacAddress mac = {};
  uint16_t mtu = 0;

  friend bool operator==(const State&, const State&) = default;
};

}  // namespace mayfly::virtio::net
