// SPDX-License-Identifier: Apache-2.0
//
// The network devices of a VM that is being made: what its caller asked for, with the host's part
// done and the blanks filled in. Any thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/address_pool.h"
#include "daemon/net_spec.h"
#include "daemon/passt.h"

#include <cstdint>
#include <memory>
#include <string>
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
  bool user_mode = false;
  std::vector<PortForward> tcp_ports = {};
  /// Of one in user_mode: how it ended.
  std::string failure = {};
};

struct VmNet {
  NetView view;
  AddressLease lease;
  /// Of one in user_mode.
  std::unique_ptr<Passt> passt = {};
};

struct OpenNets {
  std::vector<VmNet> nets;
  /// Of the same places: a tap device, or a socket of passt's.
  std::vector<Fd> files;
};

/// What networks are made with.
struct NetHost {
  /// For those that are automatic; null: there is none.
  AddressPool* pool = nullptr;
  /// The program; empty: networks are devices.
  std::string passt = {};
};

Result<OpenNets> open_nets(const std::vector<NetSpec>& specs, const NetHost& host);

}  // namespace mayfly::daemon
