// SPDX-License-Identifier: Apache-2.0
//
// Tap devices on the host: one that is there is attached to, another is made and set up. A made one
// goes with the last descriptor of it, the monitor's, whatever becomes of the daemon.
//
// Any thread; one in another network namespace is opened by a thread of its own.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/net_spec.h"

#include <cstdint>
#include <optional>
#include <string>

namespace mayfly::daemon {

struct TapPlan {
  /// Empty: one of its own is made.
  std::string name;
  /// A path; empty: this process's own.
  std::string network_namespace;
  /// Of a device that is made.
  std::string bridge;
  std::optional<Ip4Prefix> host_address;
  std::optional<uint32_t> mtu;
};

struct OpenTap {
  /// Non-blocking, with headers (IFF_VNET_HDR).
  Fd file;
  std::string name;
  uint32_t mtu = 0;
  bool made = false;
};

/// May this process make and set up devices in its own network namespace (CAP_NET_ADMIN)?
bool can_make_devices();

/// `field` is named in a refusal: NET_PRIVILEGE where this host does not let us, NET_IN_USE,
/// NET_TAP, NET_NAMESPACE, NET_BRIDGE.
Result<OpenTap> open_tap(const std::string& field, const TapPlan& plan);

}  // namespace mayfly::daemon
