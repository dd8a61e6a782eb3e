// SPDX-License-Identifier: Apache-2.0
//
// A connected stream socket that was given as a descriptor, at whose other end a program of the
// host's is the guest's network (passt). Frames as frames.h has them, without anything left to do
// for either side. When the other end has gone, or sends what is none, the link is lost for good.
//
// Threads: virtio/net/backend.h; create() and destruction on the loop thread.
#pragma once

#include "base/error.h"
#include "base/event/loop.h"
#include "base/fd.h"
#include "virtio/net/backend.h"
#include "virtio/net/frames.h"

#include <array>
#include <memory>
#include <string>

#include <sys/uio.h>

namespace mayfly::virtio::net {

class Stream final : public Backend, private LoopClient {
 public:
  /// kInvalidArgument where it is no such socket. `loop` outlives the backend, which takes a client
  /// and two files of it.
  static Result<std::unique_ptr<Stream>> create(Loop& loop, Fd socket);
  ~Stream() override;

  void attach(BackendClient& client) override { client_ = &client; }
  Offloads offloads() const override { return {}; }
  Result<> let_guest_do(const Offloads&) override { return {}; }
  bool is_lost() const override { return !socket_.valid(); }
  IoResult receive(Header& header, std::span<const iovec> frame) override;
  IoResult send(const Header& header, std::span<const iovec> frame) override;

 private:
  Stream(Loop& loop, Fd socket) : loop_(loop), socket_(std::move(socket)) {}
  void on_completion(uint32_t op, int32_t result) override;
  Result<std::optional<std::span<const std::byte>>> next_frame();
  bool fill();
  bool flush();
  IoResult wait_for_room();
  void lose();

  Loop& loop_;
  Fd socket_;
  BackendClient* client_ = nullptr;
  ClientId id_;
  // As in Tap: one poll each. Invalid with the socket, once the link is lost.
  FileSlot readable_;
  FileSlot writable_;
  FrameReader reader_;
  // What is left of a frame that went out in part.
  std::string rest_;
  std::array<iovec, kMaxPieces + 1> pieces_;
};

}  // namespace mayfly::virtio::net
