// SPDX-License-Identifier: Apache-2.0
//
// The agent's connection to the host: it says Hello and listens for Shutdown and Restored. It is
// made anew whenever it breaks (the daemon restarted, the VM was restored), at intervals that grow
// to a second, for ever. One thread; never blocks.
#pragma once

#include "base/fd.h"
#include "guest/agent/frame.h"
#include "guest/agent/messages.h"
#include "guest/agent/poll_set.h"

#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>

namespace mayfly::guest {

class ControlLink {
 public:
  /// Begins a connection: a non-blocking stream socket, connected or still connecting.
  using Connect = std::move_only_function<Result<Fd>()>;
  /// What to say; called when the connection stands.
  using MakeHello = std::move_only_function<Hello()>;
  /// Does what Restored asks for; the host is told what came of it.
  using Reseed = std::move_only_function<Reseeded(const Restored&)>;
  /// Sets the network up: what of it did not work; empty: nothing.
  using SetNetwork = std::move_only_function<std::string(const Network&)>;

  /// What the host says of the VM's metadata.
  using OnOffer = std::move_only_function<void(const MetadataOffer&)>;
  using OnAnswer = std::move_only_function<void(const MetadataAnswer&)>;

  ControlLink(Connect connect, MakeHello make_hello, Reseed reseed, SetNetwork set_network);

  void collect(PollSet& set);
  uint64_t deadline_ns() const { return deadline_ns_; }
  void handle(const PollSet& set, uint64_t now_ns);

  /// Hello has been handed to the kernel at least once.
  bool announced() const { return announced_; }
  /// What the host asked for since the last call.
  std::optional<ShutdownMode> take_shutdown();
  void send_shutdown_failed(std::string_view message);

  void on_metadata(OnOffer on_offer, OnAnswer on_answer);
  /// False: there is no connection.
  bool ask_metadata(const MetadataRequest& request);
  /// How many connections there were: what was asked before the last one began is not answered.
  uint64_t generation() const { return generation_; }

 private:
  void begin(uint64_t now_ns);
  void established();
  void read(uint64_t now_ns);
  void on_message(const HostMessage& message);
  void send(uint64_t now_ns);
  void lost(uint64_t now_ns, const char* why);

  Connect connect_;
  MakeHello make_hello_;
  Reseed reseed_;
  SetNetwork set_network_;
  OnOffer on_offer_;
  OnAnswer on_answer_;
  uint64_t generation_ = 0;
  Fd socket_;
  bool connected_ = false;
  bool announced_ = false;
  uint64_t deadline_ns_ = 0;
  uint64_t retry_ns_;
  std::optional<FrameDecoder> decoder_;
  SendQueue out_;
  std::optional<ShutdownMode> shutdown_;
  PollSet::Slot slot_ = PollSet::kNone;
};

}  // namespace mayfly::guest
