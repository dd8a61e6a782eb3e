// SPDX-License-Identifier: Apache-2.0
//
// A disk in the test's own memory that ends operations when told to, in any order, well or badly.
// Checks what the device promises its backend: numbers not in use, whole sectors, inside the disk,
// no writes to a read-only one.
#pragma once

#include "virtio/blk/backend.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <span>
#include <utility>
#include <vector>

namespace mayfly::virtio::blk::testing {

class MemoryBackend final : public Backend {
 public:
  MemoryBackend(uint64_t size_bytes, Access access) : bytes(size_bytes), access_(access) {}

  void attach(BackendClient& client) override { client_ = &client; }
  uint64_t size_bytes() const override { return bytes.size(); }
  Access access() const override { return access_; }
  Result<> read(uint16_t request, std::span<iovec> buffers, uint64_t offset) override {
    return start({request, Kind::kRead, buffers, offset});
  }
  Result<> write(uint16_t request, std::span<iovec> buffers, uint64_t offset) override {
    CHECK(access_ == Access::kReadWrite);
    return start({request, Kind::kWrite, buffers, offset});
  }
  Result<> flush(uint16_t request) override { return start({request, Kind::kFlush, {}, 0}); }
  void request_turn() override { turn_wanted_ = true; }
  void abandon() override { ++abandoned; }
  bool idle() const override { return waiting_.empty(); }

  size_t waiting() const { return waiting_.size(); }
  /// Ends the operation that has waited longest (index 0), or a younger one.
  void finish(size_t index, Outcome outcome) {
    finish_without_turn(index, outcome);
    take_turn();
  }
  void finish_without_turn(size_t index, Outcome outcome = Outcome::kDone) {
    const Operation operation = waiting_[index];
    waiting_.erase(waiting_.begin() + static_cast<ptrdiff_t>(index));
    if (outcome == Outcome::kDone) copy(operation);
    client_->on_request_done(operation.request, outcome);
  }
  void finish_all(Outcome outcome = Outcome::kDone) {
    while (!waiting_.empty()) finish(0, outcome);
  }
  /// As the loop does, soon after it was asked for.
  void take_turn() {
    if (std::exchange(turn_wanted_, false)) client_->on_turn();
  }

  std::vector<std::byte> bytes;
  bool refuse = false;  // start nothing
  int abandoned = 0;
  int flushes = 0;

 private:
  enum class Kind { kRead, kWrite, kFlush };
  struct Operation {
    uint16_t request;
    Kind kind;
    std::span<iovec> buffers;
    uint64_t offset;
  };

  Result<> start(const Operation& operation) {
    CHECK(operation.request < kMaxRequests);
    for (const Operation& other : waiting_) CHECK(other.request != operation.request);
    uint64_t size = 0;
    for (const iovec& buffer : operation.buffers) size += buffer.iov_len;
    CHECK(size % 512 == 0 && operation.offset % 512 == 0);
    CHECK(size <= bytes.size() && operation.offset <= bytes.size() - size);
    if (refuse) return fail({Code::kResourceExhausted, "REFUSED"}, "the test said so");
    waiting_.push_back(operation);
    return {};
  }
  void copy(const Operation& operation) {
    if (operation.kind == Kind::kFlush) ++flushes;
    uint64_t at = operation.offset;
    for (const iovec& buffer : operation.buffers) {
      const auto disk = std::span(bytes).subspan(at, buffer.iov_len);
      if (operation.kind == Kind::kRead) std::memcpy(buffer.iov_base, disk.data(), disk.size());
      if (operation.kind == Kind::kWrite) std::memcpy(disk.data(), buffer.iov_base, disk.size());
      at += buffer.iov_len;
    }
  }

  const Access access_;
  BackendClient* client_ = nullptr;
  bool turn_wanted_ = false;
  std::deque<Operation> waiting_;
};

}  // namespace mayfly::virtio::blk::testing
