// SPDX-License-Identifier: Apache-2.0
//
// Console input from a pipe, socket or terminal, watched by the loop. It is read only when the
// device asks, which is when the guest has room: until then the host's buffer fills and its writer
// waits. When the other end closes, or fails, there is no more input and the descriptor is closed.
#pragma once

#include "base/error.h"
#include "base/event/loop.h"
#include "base/fd.h"
#include "virtio/console/backend.h"

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

namespace mayfly::virtio::console {

class LoopInput final : public ConsoleInput, private LoopClient {
 public:
  /// On the loop thread. `loop` outlives the input. Makes `fd` non-blocking; takes one file and one
  /// client of the loop.
  static Result<std::unique_ptr<LoopInput>> create(Loop& loop, Fd fd);
  /// On the loop thread.
  ~LoopInput() override;

  void attach(InputClient& client) override { client_ = &client; }
  size_t read(std::span<std::byte> out) override;

 private:
  LoopInput(Loop& loop, Fd fd) : loop_(loop), fd_(std::move(fd)) {}
  void on_completion(uint32_t op, int32_t result) override;
  void close();

  Loop& loop_;
  Fd fd_;
  FileSlot file_;
  ClientId client_id_;
  InputClient* client_ = nullptr;
  bool readable_ = false;  // not since the last EAGAIN
};

}  // namespace mayfly::virtio::console
