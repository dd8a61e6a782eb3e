// SPDX-License-Identifier: Apache-2.0
//
// The whole daemon behind one object, so that main() includes no gRPC: it serves from create() to
// stop().
#pragma once

#include "base/error.h"
#include "daemon/jail.h"
#include "daemon/snapshot_store.h"
#include "daemon/state_dir.h"

#include <chrono>
#include <memory>
#include <string>

namespace mayfly::daemon {

struct ServerOptions {
  // An absolute path, without "unix:".
  std::string socket_path;
  // Empty: VMs without the agent only.
  std::string agent_initrd;
  std::string kvm_device;
  std::string userfault_device;
  // IPv4, as kDefaultNetPool.
  std::string net_pool;
  // Empty: the host's own.
  std::string passt = {};
};

/// What a daemon has of the host's directories.
struct ServerDirs {
  std::unique_ptr<StateDir> state;
  std::unique_ptr<SnapshotStore> snapshots;
};

class Server {
 public:
  /// From here on the process has threads.
  static Result<std::unique_ptr<Server>> create(const ServerOptions& options, ServerDirs dirs,
                                                std::unique_ptr<JailHost> jails);
  /// Stops, if that was not done.
  virtual ~Server() = default;

  /// Ends the VMs, the calls, and removes what was made on the host.
  virtual void stop(std::chrono::milliseconds grace) = 0;
};

}  // namespace mayfly::daemon
