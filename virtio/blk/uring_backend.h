// SPDX-License-Identifier: Apache-2.0
//
// A disk in a regular file or block device of the host, through the loop's io_uring. Short
// transfers go on where they stopped; a read that meets the end of the file (it was truncated
// behind our back) fails.
//
// Destroyed on the loop thread, and only when idle().
#pragma once

#include "base/error.h"
#include "base/event/loop.h"
#include "base/fd.h"
#include "virtio/blk/backend.h"

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>

namespace mayfly::virtio::blk {

class UringBackend final : public Backend, private LoopClient {
 public:
  /// On the loop thread. `loop` outlives the backend. The size is taken here and fixed: it must be
  /// a multiple of 512 and not 0 (an empty image is a mistake, not a disk). Access::kReadWrite
  /// wants `file` opened for both; O_APPEND is refused, since it would move writes. Takes one file
  /// and one client of the loop.
  static Result<std::unique_ptr<UringBackend>> create(Loop& loop, Fd file, Access access);
  ~UringBackend() override;

  void attach(BackendClient& client) override { client_ = &client; }
  uint64_t size_bytes() const override { return size_bytes_; }
  Access access() const override { return access_; }
  Result<> read(uint16_t request, std::span<iovec> buffers, uint64_t offset) override;
  Result<> write(uint16_t request, std::span<iovec> buffers, uint64_t offset) override;
  Result<> flush(uint16_t request) override;
  void request_turn() override { loop_.request_turn(id_); }
  void abandon() override;
  bool idle() const override { return in_flight_ == 0; }

 private:
  enum class Kind : uint8_t { kNone, kRead, kWrite, kFlush };
  struct Operation {
    Kind kind = Kind::kNone;
    bool abandoned = false;
    uint8_t retries = 0;
    std::span<iovec> rest = {};
    uint64_t offset = 0;
  };

  UringBackend(Loop& loop, Fd file, Access access, uint64_t size_bytes)
      : loop_(loop), file_(std::move(file)), access_(access), size_bytes_(size_bytes) {}

  void on_completion(uint32_t op, int32_t result) override;
  void on_turn() override { client_->on_turn(); }
  /// True where the operation goes on.
  bool advance(uint16_t request, int32_t result, Outcome& outcome);
  Result<> start(uint16_t request, const Operation& operation);
  Result<> submit(uint16_t request);

  Loop& loop_;
  Fd file_;
  const Access access_;
  const uint64_t size_bytes_;
  ClientId id_;
  FileSlot slot_;
  BackendClient* client_ = nullptr;
  uint16_t in_flight_ = 0;
  std::array<Operation, kMaxRequests> operations_;
};

}  // namespace mayfly::virtio::blk
