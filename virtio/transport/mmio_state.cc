// SPDX-License-Identifier: Apache-2.0
//
// Saving a transport, and making one from what was saved.
#include "virtio/transport/mmio.h"
#include "virtio/transport/wire.h"

#include <utility>

namespace mayfly::virtio {
namespace {

std::unexpected<Error> impossible(const char* field, uint64_t value) {
  return fail({Code::kDataLoss, "TRANSPORT_STATE"}, "transport state: %s 0x%llx is not possible",
              field, static_cast<unsigned long long>(value));
}

// As a driver can have reached it: no bit without those before it.
bool status_possible(uint32_t value) {
  const auto after = [value](uint32_t bit, uint32_t needed) {
    return (value & bit) == 0 || (value & needed) == needed;
  };
  return (value & ~(status::kOfDriver | status::kNeedsReset)) == 0 &&
         after(status::kDriver, status::kAcknowledge) &&
         after(status::kFeaturesOk, status::kDriver) &&
         after(status::kDriverOk, status::kFeaturesOk);
}

}  // namespace

MmioState MmioTransport::save() const {
  MmioState state{.device_type = static_cast<uint32_t>(parts_.device.type()),
                  .status = status_,
                  .driver_features = driver_features_,
                  .device_features_sel = device_features_sel_,
                  .driver_features_sel = driver_features_sel_,
                  .queue_sel = queue_sel_,
                  .interrupt_status = interrupt_status_.load(),
                  .config_generation = config_generation_,
                  .queues = {}};
  for (size_t i = 0; i < queues_.size(); ++i) {
    const bool in_use = active_ && programmed_[i].ready;
    state.queues.push_back(in_use ? queues_[i].state() : programmed_[i]);
  }
  return state;
}

Result<> MmioTransport::check(const MmioState& state) const {
  const auto type = static_cast<uint32_t>(parts_.device.type());
  if (state.device_type != type) {
    return fail({Code::kDataLoss, "TRANSPORT_STATE"},
                "transport state: of device type %u, for one of type %u", state.device_type, type);
  }
  if (!status_possible(state.status)) return impossible("status", state.status);
  const bool negotiated = (state.status & status::kFeaturesOk) != 0;
  if (negotiated && !features_acceptable(state.driver_features)) {
    return impossible("driver_features", state.driver_features);
  }
  if ((state.interrupt_status & ~(kInterruptUsed | kInterruptConfig)) != 0) {
    return impossible("interrupt_status", state.interrupt_status);
  }
  if (state.queues.size() != queues_.size()) return impossible("queue count", state.queues.size());
  return {};
}

Result<> MmioTransport::restore(const MmioState& state) {
  CHECK(status_ == 0 && !active_);
  TRY(check(state));
  driver_features_ = state.driver_features;
  for (size_t i = 0; i < queues_.size(); ++i) programmed_[i] = state.queues[i];
  // A device that needs a reset stays unserved until it has one, and its rings may be anything.
  const bool start =
      (state.status & (status::kDriverOk | status::kNeedsReset)) == status::kDriverOk;
  if (start) {
    if (Result<> activated = activate_queues(); !activated) {
      clear_registers();
      return std::unexpected(std::move(activated).error().with_context("transport state"));
    }
  }
  device_features_sel_ = state.device_features_sel;
  driver_features_sel_ = state.driver_features_sel;
  queue_sel_ = state.queue_sel;
  status_ = state.status;
  config_generation_ = state.config_generation;
  interrupt_status_.store(state.interrupt_status);
  update_frozen();
  if (start) start_device();
  return {};
}

}  // namespace mayfly::virtio
