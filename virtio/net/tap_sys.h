// SPDX-License-Identifier: Apache-2.0
//
// A tap device of the host's that was given as a descriptor: open on /dev/net/tun, attached
// (TUNSETIFF) with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR by whoever was allowed to.
//
// Threads: virtio/net/backend.h; create() and destruction on the loop thread.
#pragma once

#include "base/error.h"
#include "base/event/loop.h"
#include "base/fd.h"
#include "virtio/net/backend.h"

#include <array>
#include <memory>

#include <sys/uio.h>

namespace mayfly::virtio::net {

class Tap final : public Backend, private LoopClient {
 public:
  /// kInvalidArgument where it is not such a descriptor. `loop` outlives the backend, which takes a
  /// client and two files of it.
  static Result<std::unique_ptr<Tap>> create(Loop& loop, Fd tap);
  ~Tap() override;

  void attach(BackendClient& client) override { client_ = &client; }
  Offloads offloads() const override { return offloads_; }
  Result<> let_guest_do(const Offloads& offloads) override;
  IoResult receive(Header& header, std::span<const iovec> frame) override;
  IoResult send(const Header& header, std::span<const iovec> frame) override;

 private:
  Tap(Loop& loop, Fd tap) : loop_(loop), tap_(std::move(tap)) {}
  void on_completion(uint32_t op, int32_t result) override;

  Loop& loop_;
  Fd tap_;
  Offloads offloads_;
  BackendClient* client_ = nullptr;
  ClientId id_;
  // Two registrations of one descriptor: a file has one poll, and the second one is rarely there.
  FileSlot readable_;
  FileSlot writable_;
  // Of the frame at hand, with its header in front and what it may be cut to behind.
  std::array<iovec, kMaxPieces + 2> pieces_;
};

}  // namespace mayfly::virtio::net
