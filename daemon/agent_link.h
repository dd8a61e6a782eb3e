// SPDX-License-Identifier: Apache-2.0
//
// The host's end of the control connection that a guest's agent opens: its Hello comes in, Shutdown
// and Restored go out. Everything the agent says is the guest's word.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/agent_codec.h"
#include "daemon/reactor.h"

#include <functional>
#include <memory>
#include <string_view>

namespace mayfly::daemon {

class AgentLink {
 public:
  /// Runs on the reactor's thread.
  using Hook = std::move_only_function<void(const AgentMessage&)>;

  /// `socket` is a non-blocking stream.
  static Result<std::unique_ptr<AgentLink>> create(Reactor& reactor, Fd socket, Hook on_message);

  /// Asks the guest to power off; false: it does not listen. Never blocks. Any thread.
  bool ask_poweroff() const;
  /// Gives a restored guest what is its own (encode_restored()); as ask_poweroff().
  bool tell_restored(std::string_view entropy, uint64_t realtime_ns) const;
  /// The same, of the guest's network.
  bool tell_network(std::span<const AgentInterface> interfaces) const;

  /// Whether it is to serve the VM's metadata; as ask_poweroff().
  bool offer_metadata(bool is_there) const;
  /// The reactor's thread. A guest that does not read what it has asked for is not listened to any
  /// more.
  void answer_metadata(const AgentMetadataAnswer& answer);

  /// Takes what has arrived already; on the reactor's thread, as the monitor has ended.
  void drain() { (void)on_readable(); }

 private:
  AgentLink(Fd socket, Hook on_message)
      : socket_(std::move(socket)), on_message_(std::move(on_message)) {}
  WatchVerdict on_readable();
  bool send(std::string_view frame) const;

  const Fd socket_;
  // Reactor's thread only.
  Hook on_message_;
  FrameReader reader_;
  bool is_deaf_ = false;
  Watch watch_;
};

}  // namespace mayfly::daemon
