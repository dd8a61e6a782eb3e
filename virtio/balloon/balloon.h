// SPDX-License-Identifier: Apache-2.0
//
// The virtio memory balloon (virtio 1.2, section 5.5). The host sets a target; the driver gives
// pages until it has given as many, or takes some back. Queues: inflate, deflate, then, where they
// are offered, statistics and free page reporting; those that are not offered have no number, as
// Linux and QEMU count them.
//
// The guest controls every chain, the rate of them and `actual`. What it says is bounded so:
//  - an inflate request names at most kMaxPagesPerRequest pages, all of them in RAM: anything else
//    needs a reset. They are sorted, so that neighbours go in one call, and named twice, once.
//  - of the free pages it reports, at most kMaxReportedBytes go in one drain. A report is a hint
//    (5.5.6.5): what is above stays where it is.
//  - deflate requests are answered unread: pages come back as they are touched.
//  - at most kMaxStats statistics are read of a buffer; unknown ones are skipped.
// PAGE_POISON is not offered: a guest that wants to find certain bytes in free pages does not
// report them (5.5.6.5; Linux), and one that inflates must expect any (5.5.6.1).
//
// The statistics' buffer is left in the ring while the device has it (chains are only looked at),
// so that a snapshot need not remember it.
//
// Threads: virtio/device.h.
#pragma once

#include "base/error.h"
#include "virtio/balloon/backend.h"
#include "virtio/balloon/state.h"
#include "virtio/balloon/wire.h"
#include "virtio/device.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

namespace mayfly::virtio::balloon {

inline constexpr uint16_t kQueueSize = 16;
/// As many as Linux reports at once, or it reports none.
inline constexpr uint16_t kReportQueueSize = 32;
inline constexpr size_t kMaxPagesPerRequest = 1024;
inline constexpr uint64_t kMaxReportedBytes = uint64_t{512} << 20;
inline constexpr size_t kMaxStats = 32;

/// The tags of 5.5.6.4 that we know, each being its place in Stats::values.
inline constexpr size_t kStatCount = 10;

/// What the guest says of its memory; hostile.
struct Stats {
  /// CLOCK_MONOTONIC as they came; 0: none have.
  uint64_t at_ns = 0;
  std::array<std::optional<uint64_t>, kStatCount> values = {};
};

struct Counters {
  uint64_t inflated_pages = 0;
  uint64_t reported_pages = 0;
  /// Calls for which the host did not take the pages.
  uint64_t failures = 0;
};

class Balloon final : public Device {
 public:
  Balloon(std::unique_ptr<PageTaker> taker, const Options& options, uint32_t target_pages);

  DeviceType type() const override { return DeviceType::kBalloon; }
  uint64_t features() const override;
  std::span<const uint16_t> queue_sizes() const override {
    return std::span(queue_sizes_).first(queue_count_);
  }
  void read_config(uint64_t offset, std::span<std::byte> out) const override;
  void write_config(uint64_t offset, std::span<const std::byte> in) override;
  void activate(DeviceHost& host, uint64_t features, std::span<Queue> queues) override;
  void queue_notified(uint16_t index) override;
  void reset() override;
  bool idle() const override { return true; }

  /// How many pages the guest is to do without. It is told at once, and gives them as it can.
  void set_target(uint32_t pages);
  uint32_t target_pages() const { return config_.num_pages; }
  uint32_t actual_pages() const { return config_.actual; }
  const Options& options() const { return options_; }

  /// The guest is asked for statistics, which come some time later, where it has a buffer there.
  void ask_for_stats();
  const Stats& stats() const { return stats_; }
  const Counters& counters() const { return counters_; }

  State save() const;
  Result<> restore(const State& state);

 private:
  enum class Purpose : uint8_t { kInflate, kDeflate, kStats, kReport };

  void add_queue(Purpose purpose, uint16_t size);
  Result<Verdict> inflate(Chain& chain);
  Result<> take_run(uint32_t first, uint64_t pages);
  Result<Verdict> take_reported(Chain& chain, uint64_t& budget);
  Result<bool> serve_stats(Queue& queue, bool ask);
  void read_stats(Chain& chain);
  bool take(const GuestSpan& pages);

  const std::unique_ptr<PageTaker> taker_;
  const Options options_;
  size_t queue_count_ = 0;
  std::array<uint16_t, 4> queue_sizes_ = {};
  std::array<Purpose, 4> purposes_ = {};
  // Under the device lock.
  Config config_ = {};
  Stats stats_;
  Counters counters_;
  // Between activate() and reset():
  DeviceHost* host_ = nullptr;
  std::span<Queue> queues_;
};

}  // namespace mayfly::virtio::balloon
