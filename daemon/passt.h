// SPDX-License-Identifier: Apache-2.0
//
// passt(1): a program of the daemon's user that is a guest's network without any privilege. It
// turns the guest's frames into connections of its own, and ends with the socket that they come by.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/net_spec.h"
#include "daemon/reactor.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace mayfly::daemon {

struct PasstPlan {
  /// What the guest has; passt offers the same by DHCP.
  Ip4Prefix address;
  uint32_t gateway = 0;
  uint32_t mtu = 0;
  std::vector<PortForward> tcp_ports = {};
};

class Passt {
 public:
  /// One line of what it said, and how it ended.
  using Hook = std::move_only_function<void(const std::string& how)>;

  /// Returns when it is ready, or with what it says of why it is not. `field` is named then. Its
  /// socket's other end is left in `guest_end`, non-blocking.
  static Result<std::unique_ptr<Passt>> start(const std::string& field, const std::string& program,
                                              const PasstPlan& plan, Fd& guest_end);
  /// Ends it.
  ~Passt();
  Passt(const Passt&) = delete;
  Passt& operator=(const Passt&) = delete;

  /// The hook runs once, on the reactor's thread, when it has ended. Once.
  Result<> watch(Reactor& reactor, Hook on_end);
  /// Does not wait. Any thread.
  void kill() const;

 private:
  Passt(Fd process, Fd output) : process_(std::move(process)), output_(std::move(output)) {}
  std::string last_line() const;
  WatchVerdict on_ended();

  const Fd process_;
  // What it says goes to a file that cannot grow.
  const Fd output_;
  // Reactor's thread only, once there is a watch.
  Hook on_end_;
  // Set once, before the watch is gone.
  bool is_reaped_ = false;
  Watch watch_;
};

/// The program that a daemon uses: `path`, or the host's own where it is empty. Empty: there is
/// none.
std::string find_passt(const std::string& path);

}  // namespace mayfly::daemon
