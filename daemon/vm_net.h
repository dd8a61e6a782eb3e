// SPDX-License-Identifier: Apache-2.0
//
// The network devices of a VM that is being made: what its caller asked for, with the host's part
// done and the blanks filled in. Any thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/address_pool.h"
#include "daemon/net_spec.h"

#include <cstdint>
#include <vector>

namespace mayfly::daemon {

/// As it is; all but its file, which goes with the monitor.
struct NetView {
  std::string tap;
  std::string network_namespace;
  std::string bridge;
  std::optional<Ip4Prefix> host_address;
  MacAddress mac = {};
  uint32_t mtu = 0;
  std::optional<GuestNetwork> guest;
  bool automatic = false;
};

struct VmNet {
  NetView view;
  AddressLease lease;
};

struct OpenNets {
  std::vector<VmNet> nets;
  /// Of the same places.
  std::vector<Fd> taps;
};

/// `pool`: for those that are automatic; null: there is none.
Result<OpenNets> open_nets(const std::vector<NetSpec>& specs, AddressPool* pool);

}  // namespace mayfly::daemon
