// SPDX-License-Identifier: Apache-2.0
//
// What a device's test needs around it: guest memory, a FakeDriver and a Queue for each of its
// queues, and a DeviceHost that writes down what the device asked for. Stands in for the transport.
#pragma once

#include "virtio/device.h"
#include "virtio/queue/queue.h"
#include "virtio/queue/testing/fake_driver.h"

#include <cstdint>
#include <string>
#include <vector>

namespace mayfly::virtio::testing {

class DeviceHarness final : public DeviceHost {
 public:
  struct Options {
    uint64_t memory_bytes = 4 * 1024 * 1024;
    bool event_idx = true;
    uint64_t data_size = 256 * 1024;
  };

  explicit DeviceHarness(Device& device) : DeviceHarness(device, Options()) {}
  DeviceHarness(Device& device, const Options& options)
      : device_(device), options_(options), memory_(make_memory(options.memory_bytes)) {
    Gpa base{0x10000};
    for (const uint16_t size : device.queue_sizes()) {
      drivers_.emplace_back(memory_, FakeDriver::Options{.base = base,
                                                         .size = size,
                                                         .event_idx = options.event_idx,
                                                         .data_size = options.data_size});
      base = drivers_.back().end();
      queues_.emplace_back();
    }
    used_calls.resize(queues_.size());
  }

  /// DRIVER_OK, with every queue enabled.
  void activate(uint64_t features = kFeatureVersion1) {
    for (size_t i = 0; i < queues_.size(); ++i) {
      // MUST: the driver's own rings are valid.
      MUST(queues_[i].activate(memory_, drivers_[i].queue_state(), drivers_[i].queue_state().size,
                               options_.event_idx, true));
    }
    device_.activate(*this, features, queues_);
  }
  void notify(uint16_t index) { device_.queue_notified(index); }

  const GuestMemory& memory() const { return memory_; }
  FakeDriver& driver(size_t index) { return drivers_[index]; }
  Queue& queue(size_t index) { return queues_[index]; }
  std::span<Queue> queues() { return queues_; }

  void queue_used(uint16_t index) override { ++used_calls[index]; }
  void config_changed() override { ++config_changes; }
  void needs_reset(const Error& error) override {
    ++resets_wanted;
    reset_reason = error.reason();
  }

  std::vector<int> used_calls;  // by queue
  int config_changes = 0;
  int resets_wanted = 0;
  std::string reset_reason;

 private:
  Device& device_;
  Options options_;
  GuestMemory memory_;
  std::vector<FakeDriver> drivers_;
  std::vector<Queue> queues_;
};

}  // namespace mayfly::virtio::testing
