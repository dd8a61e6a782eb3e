// SPDX-License-Identifier: Apache-2.0
//
// A socket device as plain data. Untrusted: Vsock::restore() checks it. Connections are not state:
// they end with the process that held their host side, and the guest of a restored VM starts
// without any.
#pragma once

#include <cstdint>

namespace mayfly::virtio::vsock {

struct State {
  /// What the guest had; the VM that is restored from this may have another.
  uint64_t guest_cid = 0;
  /// The next port of the host's side for a connection to the guest, so that a restored guest meets
  /// no port again that it may still hold a connection with.
  uint32_t next_host_port = 0;

  friend bool operator==(const State&, const State&) = default;
};

}  // namespace mayfly::virtio::vsock
