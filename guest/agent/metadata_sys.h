// SPDX-License-Identifier: Apache-2.0
//
// Where programs of the guest find the metadata service: TCP port 80 of 169.254.169.254, which the
// loopback device has for as long, and a Unix socket for those without a network.
#pragma once

#include "guest/agent/listener.h"

#include <memory>
#include <vector>

namespace mayfly::guest {

/// Of the two those that this guest can have; why not the other is logged.
std::vector<std::unique_ptr<Listener>> listen_for_metadata();

/// A blocking connection to the Unix socket.
Result<Fd> connect_to_metadata();

}  // namespace mayfly::guest
