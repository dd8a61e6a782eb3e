// SPDX-License-Identifier: Apache-2.0
//
// The agent's loop: accepts exec connections, keeps the control link, reaps children. One thread.
// The caller has SIGCHLD blocked before it creates the service, and SIGPIPE ignored.
#pragma once

#include "base/fd.h"
#include "guest/agent/control_link.h"
#include "guest/agent/listener.h"
#include "guest/agent/messages.h"
#include "guest/agent/metadata_server.h"
#include "guest/agent/poll_set.h"
#include "guest/agent/session.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace mayfly::guest {

inline constexpr size_t kMaxCommands = 64;
/// Beyond the commands: connections that are being told no, or are closing.
inline constexpr size_t kMaxConnections = kMaxCommands + 16;

struct ServiceOptions {
  /// May be null (tests hand in connections by adopt()).
  std::unique_ptr<Listener> listener;
  /// May be null.
  std::unique_ptr<ControlLink> link;
  /// Where programs of the guest ask for its metadata; only by way of `link`.
  MetadataServer::Listen listen_for_metadata;
  /// Non-empty: every command is refused with this.
  std::string failure;
  /// What else to listen to for being told to shut down: signals as PID 1 gets them from
  /// poweroff(8).
  bool shutdown_signals = false;
};

class Service {
 public:
  static Result<std::unique_ptr<Service>> create(ServiceOptions options);

  /// One more exec connection.
  void adopt(Fd connection);
  /// One round: waits for events until CLOCK_MONOTONIC reaches `deadline_ns` and handles them.
  Result<> step(uint64_t deadline_ns);
  /// Asked for by the host or by a signal.
  std::optional<ShutdownMode> shutdown() const { return shutdown_; }
  /// Shutting down did not work; the host is told, and the service goes on.
  void shutdown_failed(const std::string& message);

  /// Collects children that have ended; false once there is none left, running or dead.
  bool reap();

  size_t connections() const { return sessions_.size(); }
  /// The link has told the host that we are here.
  bool announced() const { return options_.link != nullptr && options_.link->announced(); }

 private:
  Service(ServiceOptions options, Fd signals);

  void accept_waiting();
  void handle_signals();
  size_t commands() const;

  ServiceOptions options_;
  MetadataServer metadata_;
  Fd signals_;
  std::vector<std::unique_ptr<Session>> sessions_;
  PollSet set_;
  std::optional<ShutdownMode> shutdown_;
};

}  // namespace mayfly::guest
