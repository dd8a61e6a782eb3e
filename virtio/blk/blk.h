// SPDX-License-Identifier: Apache-2.0
//
// The virtio block device (virtio 1.2, section 5.2): one queue, requests IN, OUT, FLUSH and GET_ID,
// anything else is answered with UNSUPP. One instance per disk. Requests run side by side and end
// in any order.
//
// The guest controls every chain. One without room for header and status breaks the protocol
// (NEEDS_RESET). A length that is not a multiple of 512, a range that leaves the disk, more than
// seg_max pieces, or a write to a read-only disk gets IOERR, and nothing of it reaches the backend.
// A request of no bytes inside the disk is OK.
//
// Durability: a write is in the host's page cache when it completes. FLUSH makes every write
// durable that completed before it was made available; writes still under way may or may not be in
// it, as the standard has it (5.2.6.2).
//
// Threads: virtio/device.h. create() and destruction on the loop thread; destroy only when idle().
#pragma once

#include "base/error.h"
#include "virtio/blk/backend.h"
#include "virtio/blk/state.h"
#include "virtio/blk/wire.h"
#include "virtio/device.h"

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include <sys/uio.h>

namespace mayfly::virtio::blk {

/// The most pieces of one request's data. Bounds the iovec storage: 1 KiB a request.
inline constexpr uint32_t kSegMax = 64;

/// Since creation; they never go back.
struct Counters {
  uint64_t reads = 0;
  uint64_t read_bytes = 0;
  uint64_t writes = 0;
  uint64_t written_bytes = 0;
  uint64_t flushes = 0;
  uint64_t errors = 0;  ///< requests answered with IOERR
};

class Blk final : public Device, private BackendClient {
 public:
  /// `serial`: at most 20 bytes of printable ASCII; may be empty.
  static Result<std::unique_ptr<Blk>> create(std::unique_ptr<Backend> backend,
                                             std::string_view serial);

  DeviceType type() const override { return DeviceType::kBlock; }
  uint64_t features() const override;
  std::span<const uint16_t> queue_sizes() const override { return kQueueSizes; }
  void read_config(uint64_t offset, std::span<std::byte> out) const override;
  void write_config(uint64_t offset, std::span<const std::byte> in) override;
  void activate(DeviceHost& host, uint64_t features, std::span<Queue> queues) override;
  void queue_notified(uint16_t index) override;
  void reset() override;
  bool idle() const override { return backend_->idle() && !interrupt_due_; }

  const Counters& counters() const { return counters_; }
  State save() const;
  /// Before activate(). The disk must be as large and as writable as the one that was saved.
  Result<> restore(const State& state);

 private:
  static constexpr std::array<uint16_t, 1> kQueueSizes = {kMaxRequests};

  /// One of the bounded pool: from its chain until its backend operation has ended.
  struct Request {
    bool in_use = false;
    bool abandoned = false;  // by reset(): ends in silence
    uint16_t head = 0;
    uint32_t type = 0;
    uint32_t data_bytes = 0;
    GuestSpan status;
  };

  Blk(std::unique_ptr<Backend> backend, std::string_view serial);

  void on_request_done(uint16_t request, Outcome outcome) override;
  void on_turn() override;

  void serve_queue();
  void request_turn();
  Result<bool> serve_chains(WhenEmpty when_empty);
  Result<Verdict> serve(Chain& chain);
  Result<Verdict> start_transfer(Chain& chain, const RequestHeader& header, GuestSpan status);
  Result<Verdict> start_flush(uint16_t head, GuestSpan status);
  Verdict get_id(ChainWriter& writer, GuestSpan status);
  Verdict io_error(GuestSpan status);
  bool inside(uint64_t sector, uint64_t size_bytes) const;
  uint16_t take_request(uint16_t head, uint32_t type, uint32_t data_bytes, GuestSpan status);
  void put_request(uint16_t request);
  std::span<iovec> buffers_of(uint16_t request);

  const std::unique_ptr<Backend> backend_;
  std::array<char, kIdSize> serial_ = {};
  const uint64_t capacity_sectors_;
  DeviceHost* host_ = nullptr;  // between activate() and reset()
  Queue* queue_ = nullptr;
  bool turn_due_ = false;
  bool starved_ = false;        // chains may wait for a free request
  bool interrupt_due_ = false;  // for chains completed since the last turn
  Counters counters_;
  uint16_t free_count_ = 0;
  std::array<uint16_t, kMaxRequests> free_;
  std::array<Request, kMaxRequests> requests_;
  // kSegMax for each request; left uninitialised, so that memory is only touched as deep as
  // requests queue up.
  const std::unique_ptr<iovec[]> buffers_;
};

}  // namespace mayfly::virtio::blk
