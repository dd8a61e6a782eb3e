// SPDX-License-Identifier: Apache-2.0
//
// The monitor's end of the control socket: accepts the daemon on a listening SOCK_SEQPACKET socket,
// one connection at a time, and turns packets into requests. A new connection takes the place of
// one whose peer has gone; while one lives, further ones wait.
//
// Threads: the loop thread. The loop only notes that something came; next() is called outside its
// dispatch, so that a request may run the loop itself (a pause waits for devices to come to rest).
#pragma once

#include "base/error.h"
#include "base/event/loop.h"
#include "base/fd.h"
#include "vmm/control/request.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace mayfly::vmm {

class Server final : private LoopClient {
 public:
  /// `loop` outlives the server. `listener` is non-blocking from here on.
  static Result<std::unique_ptr<Server>> create(Loop& loop, Fd listener);
  ~Server();

  /// The next request, if one has come. Malformed packets are answered here.
  std::optional<Request> next();

  /// True once after the connection has closed.
  bool take_disconnect();

  /// Answers a request. A peer that does not read loses its connection: it gets no second buffer.
  void reply(uint64_t id, const Result<Answer>& result);

 private:
  struct Packet {
    size_t size;
    std::vector<Fd> descriptors;
  };

  Server(Loop& loop, Fd listener);
  void on_completion(uint32_t op, int32_t result) override;
  void accept();
  void disconnect();
  /// `descriptor` goes with it, where it is valid.
  void send(const std::string& packet, FdRef descriptor);
  /// The next packet into buffer_; empty where none waits or the peer has gone.
  std::optional<Packet> receive();

  Loop& loop_;
  Fd listener_;
  Fd connection_;
  ClientId id_;
  FileSlot listener_slot_;
  FileSlot connection_slot_;
  bool can_accept_ = true;
  bool can_receive_ = false;
  bool disconnected_ = false;
  std::unique_ptr<std::byte[]> buffer_;  // kMaxPacketBytes
};

}  // namespace mayfly::vmm
