// SPDX-License-Identifier: Apache-2.0
#include "virtio/balloon/balloon.h"

#include "base/clock.h"

#include <algorithm>
#include <cstring>

namespace mayfly::virtio::balloon {

Balloon::Balloon(std::unique_ptr<PageTaker> taker, const Options& options, uint32_t target_pages)
    : taker_(std::move(taker)), options_(options) {
  config_.num_pages = target_pages;
  add_queue(Purpose::kInflate, kQueueSize);
  add_queue(Purpose::kDeflate, kQueueSize);
  if (options.stats_interval_s != 0) add_queue(Purpose::kStats, kQueueSize);
  if (options.free_page_reporting) add_queue(Purpose::kReport, kReportQueueSize);
}

void Balloon::add_queue(Purpose purpose, uint16_t size) {
  purposes_[queue_count_] = purpose;
  queue_sizes_[queue_count_++] = size;
}

uint64_t Balloon::features() const {
  return (options_.stats_interval_s != 0 ? kFeatureStatsVq : 0) |
         (options_.deflate_on_oom ? kFeatureDeflateOnOom : 0) |
         (options_.free_page_reporting ? kFeatureReporting : 0);
}

void Balloon::read_config(uint64_t offset, std::span<std::byte> out) const {
  copy_config(std::as_bytes(std::span(&config_, 1)), offset, out);
}

void Balloon::write_config(uint64_t offset, std::span<const std::byte> in) {
  constexpr uint64_t kAt = offsetof(Config, actual);
  // The driver writes the whole field or nothing of it (5.5.6.1).
  if (offset != kAt || in.size() != sizeof(config_.actual)) return;
  std::memcpy(&config_.actual, in.data(), sizeof(config_.actual));
}

void Balloon::activate(DeviceHost& host, uint64_t, std::span<Queue> queues) {
  host_ = &host;
  queues_ = queues;
}

void Balloon::queue_notified(uint16_t index) {
  if (host_ == nullptr || index >= queues_.size()) return;
  Queue& queue = queues_[index];
  Result<bool> drained = false;
  switch (purposes_[index]) {
    case Purpose::kInflate:
      drained = queue.drain([this](Chain& chain) { return inflate(chain); });
      break;
    case Purpose::kDeflate:
      drained = queue.drain([](Chain&) -> Result<Verdict> { return done(0); });
      break;
    case Purpose::kStats:
      drained = serve_stats(queue, false);
      break;
    case Purpose::kReport: {
      uint64_t budget = kMaxReportedBytes;
      drained = queue.drain([&](Chain& chain) { return take_reported(chain, budget); });
      break;
    }
  }
  if (!drained) return host_->needs_reset(drained.error());
  host_->queue_used(index);
}

Result<Verdict> Balloon::inflate(Chain& chain) {
  std::array<uint32_t, kMaxPagesPerRequest> pages;
  const uint64_t bytes = chain.reader.remaining();
  if (bytes % sizeof(uint32_t) != 0 || bytes > sizeof(pages)) {
    return fail({Code::kInvalidArgument, "BALLOON_REQUEST"},
                "balloon: a request of %llu bytes, which are no page numbers of 4 bytes or more "
                "than %zu of them",
                static_cast<unsigned long long>(bytes), kMaxPagesPerRequest);
  }
  const std::span named = std::span(pages).first(bytes / sizeof(uint32_t));
  TRY(chain.reader.read(std::as_writable_bytes(named)));
  std::ranges::sort(named);
  for (size_t i = 0; i < named.size();) {
    const uint32_t first = named[i];
    uint64_t count = 0;
    // The same page again is none more.
    for (; i < named.size() && named[i] - first <= count; ++i) count = named[i] - first + 1ull;
    TRY(take_run(first, count));
  }
  return done(0);
}

Result<> Balloon::take_run(uint32_t first, uint64_t pages) {
  const auto span = taker_->find({Gpa{first * kPageBytes}, pages * kPageBytes});
  if (!span) {
    return fail({Code::kOutOfRange, "BALLOON_PAGE"},
                "balloon: of %llu pages from number %u on some are not in RAM",
                static_cast<unsigned long long>(pages), first);
  }
  if (take(*span)) counters_.inflated_pages += pages;
  return {};
}

// Buffers are runs of free pages; nothing is written to them.
Result<Verdict> Balloon::take_reported(Chain& chain, uint64_t& budget) {
  while (chain.writer.remaining() != 0 && budget >= kPageBytes) {
    const GuestSpan pages = chain.writer.take_pages(budget);
    budget -= std::min(budget, std::max(pages.size(), kPageBytes));
    if (pages.size() != 0 && take(pages)) counters_.reported_pages += pages.size() / kPageBytes;
  }
  return done(0);
}

// Not the driver's fault where it fails: it has done without the pages all the same.
bool Balloon::take(const GuestSpan& pages) {
  if (taker_->take(pages)) return true;
  ++counters_.failures;
  return false;
}

Result<bool> Balloon::serve_stats(Queue& queue, bool ask) {
  return queue.drain([this, ask](Chain& chain) mutable -> Result<Verdict> {
    if (ask) {
      ask = false;
      return done(0);
    }
    read_stats(chain);
    return stop();
  });
}

void Balloon::read_stats(Chain& chain) {
  Stats stats{.at_ns = monotonic_ns(), .values = {}};
  for (size_t i = 0; i < kMaxStats; ++i) {
    const Result<Stat> stat = chain.reader.read_object<Stat>();
    if (!stat) break;
    // Packed: no reference to either field may be taken.
    const uint16_t tag = stat->tag;
    const uint64_t value = stat->value;
    if (tag < kStatCount) stats.values[tag] = value;
  }
  stats_ = stats;
}

void Balloon::ask_for_stats() {
  const auto* const purpose = std::ranges::find(purposes_, Purpose::kStats);
  const auto index = static_cast<size_t>(purpose - purposes_.begin());
  if (host_ == nullptr || index >= queue_count_) return;
  const Result<bool> drained = serve_stats(queues_[index], true);
  if (!drained) return host_->needs_reset(drained.error());
  host_->queue_used(static_cast<uint16_t>(index));
}

void Balloon::set_target(uint32_t pages) {
  config_.num_pages = pages;
  if (host_ != nullptr) host_->config_changed();
}

// Its driver has taken back what it gave, or begins with nothing (5.5.5).
void Balloon::reset() {
  host_ = nullptr;
  queues_ = {};
  config_.actual = 0;
  stats_ = {};
}

State Balloon::save() const {
  return {.target_pages = config_.num_pages, .actual_pages = config_.actual, .options = options_};
}

Result<> Balloon::restore(const State& state) {
  if (state.options != options_) {
    return fail({Code::kFailedPrecondition, "BALLOON_OPTIONS"},
                "balloon: deflate_on_oom %d, free_page_reporting %d, stats_interval_s %u here, and "
                "%d, %d, %u in the state",
                options_.deflate_on_oom, options_.free_page_reporting, options_.stats_interval_s,
                state.options.deflate_on_oom, state.options.free_page_reporting,
                state.options.stats_interval_s);
  }
  config_ = {.num_pages = state.target_pages, .actual = state.actual_pages};
  return {};
}

}  // namespace mayfly::virtio::balloon
