// SPDX-License-Identifier: Apache-2.0
//
// The daemon's Unix socket: mode 0600, and only the daemon's own user and root get through,
// whatever the mode becomes. Connections are accepted on the reactor's thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/reactor.h"

#include <functional>
#include <memory>
#include <string>

namespace mayfly::daemon {

class Listener {
 public:
  using Hook = std::move_only_function<void(Fd connection)>;

  /// Replaces a socket that nobody listens on; refuses one that somebody does, and any other file.
  static Result<std::unique_ptr<Listener>> create(Reactor& reactor, const std::string& path,
                                                  Hook accepted);
  /// Removes the socket.
  ~Listener();

 private:
  Listener(std::string path, Fd socket, Hook accepted);
  void on_readable();

  const std::string path_;
  const Fd socket_;
  Hook accepted_;  // Reactor's thread only.
  Watch watch_;
};

}  // namespace mayfly::daemon
