// SPDX-License-Identifier: Apache-2.0
#include "virtio/transport/mmio.h"

#include "base/clock.h"
#include "base/log.h"
#include "virtio/transport/wire.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace mayfly::virtio {
namespace {

constexpr uint64_t kLogIntervalNs = 1'000'000'000;
constexpr uint64_t kTransportFeatures = kFeatureVersion1 | kFeatureEventIdx | kFeatureIndirectDesc;

}  // namespace

Result<std::unique_ptr<MmioTransport>> MmioTransport::create(Parts parts) {
  const std::span<const uint16_t> sizes = parts.device.queue_sizes();
  CHECK(sizes.size() <= kMaxQueues);
  std::vector<Fd> kicks;
  for (const uint16_t size : sizes) {
    CHECK(std::has_single_bit(size) && size <= kMaxQueueSize);
    kicks.push_back(TRY(Fd::event()));
  }
  return std::unique_ptr<MmioTransport>(new MmioTransport(std::move(parts), std::move(kicks)));
}

MmioTransport::MmioTransport(Parts parts, std::vector<Fd> kicks)
    : parts_(std::move(parts)), kicks_(std::move(kicks)) {
  for (const Fd& kick : kicks_) queues_.emplace_back(kick.ref());
}

void MmioTransport::read(uint64_t offset, std::span<std::byte> data) {
  std::ranges::fill(data, std::byte{0});
  if (offset >= kMmioConfigOffset) {
    if (data.size() > sizeof(uint64_t) || !std::has_single_bit(data.size())) return;
    const std::lock_guard held(parts_.lock);
    parts_.device.read_config(offset - kMmioConfigOffset, data);
    return;
  }
  if (data.size() != sizeof(uint32_t) || offset % sizeof(uint32_t) != 0) return;
  const uint32_t value = read_register(offset);
  std::memcpy(data.data(), &value, sizeof(value));
}

void MmioTransport::write(uint64_t offset, std::span<const std::byte> data) {
  if (offset >= kMmioConfigOffset) {
    if (data.size() > sizeof(uint64_t) || !std::has_single_bit(data.size())) return;
    const std::lock_guard held(parts_.lock);
    if (!resetting_) parts_.device.write_config(offset - kMmioConfigOffset, data);
    return;
  }
  if (data.size() != sizeof(uint32_t) || offset % sizeof(uint32_t) != 0) return;
  uint32_t value = 0;
  std::memcpy(&value, data.data(), sizeof(value));
  write_register(offset, value);
}

uint64_t MmioTransport::offered() const { return parts_.device.features() | kTransportFeatures; }

bool MmioTransport::features_acceptable(uint64_t features) const {
  return (features & ~offered()) == 0 && (features & kFeatureVersion1) != 0;
}

void MmioTransport::write_status(uint32_t value, Held& held) {
  if (value == 0) return reset(held);
  const uint32_t before = status_ & status::kOfDriver;
  const uint32_t wanted = value & status::kOfDriver;
  // Bits are only ever added (2.1.1), each after the one before it.
  if ((before & ~wanted) != 0) return;
  uint32_t added = wanted & ~before;
  const auto drop_unless_after = [&](uint32_t bit, uint32_t needed) {
    if (((before | added) & needed) != needed) added &= ~bit;
  };
  drop_unless_after(status::kDriver, status::kAcknowledge);
  drop_unless_after(status::kFeaturesOk, status::kDriver);
  if (!features_acceptable(driver_features_)) added &= ~status::kFeaturesOk;
  drop_unless_after(status::kDriverOk, status::kFeaturesOk);
  status_ |= added;
  if ((added & status::kDriverOk) == 0) return;
  if (const Result<> activated = activate_queues(); !activated) {
    needs_reset(activated.error());
    return;
  }
  start_device();
}

Result<> MmioTransport::activate_queues() {
  const bool event_idx = (driver_features_ & kFeatureEventIdx) != 0;
  const bool indirect = (driver_features_ & kFeatureIndirectDesc) != 0;
  for (size_t i = 0; i < queues_.size(); ++i) {
    if (!programmed_[i].ready) continue;
    const uint16_t max_size = parts_.device.queue_sizes()[i];
    Result<> result =
        queues_[i].activate(parts_.memory, programmed_[i], max_size, event_idx, indirect);
    if (!result) {
      for (Queue& queue : queues_) queue.reset();
      return std::unexpected(std::move(result).error().with_context(format("queue %zu", i)));
    }
  }
  return {};
}

void MmioTransport::start_device() {
  active_ = true;
  update_frozen();
  parts_.device.activate(*this, driver_features_, queues_);
  // What the driver made available before DRIVER_OK, and what the host had for the guest by then,
  // is found by the loop.
  notify_all();
}

void MmioTransport::notify_all() {
  for (const Fd& kick : kicks_) signal_event(kick.ref());
}

void MmioTransport::reset(Held& held) {
  if (active_) {
    active_ = false;
    resetting_ = true;
    parts_.device.reset();
    for (Queue& queue : queues_) queue.reset();
    while (!parts_.device.idle()) {
      // The machine ends: the guest does not run again, so the registers may stay as they are.
      if (!parts_.wait(held)) return;
    }
    resetting_ = false;
  }
  clear_registers();
}

void MmioTransport::clear_registers() {
  programmed_ = {};
  driver_features_ = 0;
  device_features_sel_ = 0;
  driver_features_sel_ = 0;
  queue_sel_ = 0;
  status_ = 0;
  interrupt_status_.store(0);
  update_frozen();
}

void MmioTransport::process_kick(uint16_t index) {
  CHECK(index < queues_.size());
  const bool serving = active_ && !frozen_ && (status_ & status::kNeedsReset) == 0;
  if (serving) parts_.device.queue_notified(index);
}

void MmioTransport::update_frozen() {
  const bool frozen = frozen_ || (status_ & status::kNeedsReset) != 0;
  for (Queue& queue : queues_) queue.set_frozen(frozen);
}

void MmioTransport::freeze() {
  frozen_ = true;
  update_frozen();
}

void MmioTransport::thaw() {
  frozen_ = false;
  update_frozen();
  if (!active_) return;
  notify_all();
  if (interrupt_status_.load() != 0) parts_.interrupt.raise();
}

void MmioTransport::queue_used(uint16_t index) {
  CHECK(index < queues_.size());
  if (queues_[index].take_interrupt()) interrupt(kInterruptUsed);
}

void MmioTransport::config_changed() {
  ++config_generation_;
  // Not before DRIVER_OK (2.3, 3.1).
  if (active_) interrupt(kInterruptConfig);
}

void MmioTransport::needs_reset(const Error& error) {
  log_needs_reset(error);
  status_ |= status::kNeedsReset;
  update_frozen();
  if ((status_ & status::kDriverOk) != 0) interrupt(kInterruptConfig);
}

// A guest can break its device as often as it likes: one line a second is enough.
void MmioTransport::log_needs_reset(const Error& error) {
  const uint64_t now = monotonic_ns();
  if (last_log_ns_ != 0 && now - last_log_ns_ < kLogIntervalNs) return;
  last_log_ns_ = now;
  log(LogLevel::kWarning, "virtio device %u needs a reset: %s",
      static_cast<unsigned>(parts_.device.type()), error.describe().c_str());
}

void MmioTransport::interrupt(uint32_t bit) {
  interrupt_status_.fetch_or(bit);
  parts_.interrupt.raise();
}

}  // namespace mayfly::virtio
