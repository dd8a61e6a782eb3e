// SPDX-License-Identifier: Apache-2.0
//
// The guest's vsock sockets: to the host's CID, and from it.
#pragma once

#include "base/fd.h"
#include "guest/agent/service.h"

#include <cstdint>
#include <memory>

namespace mayfly::guest {

/// Begins to connect to a port of the host; the socket is non-blocking.
Result<Fd> connect_to_host(uint32_t port);

/// Listens on a port of the guest. Only connections from the host are handed out: another process
/// of the guest must not be able to give the agent commands.
Result<std::unique_ptr<Listener>> listen_for_host(uint32_t port);

}  // namespace mayfly::guest
