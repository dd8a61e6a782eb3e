// SPDX-License-Identifier: Apache-2.0
//
// The virtio entropy device (virtio 1.2, section 5.4): one queue, whose device-writable buffers it
// fills with random bytes.
//
// The guest controls every chain. Only the first kMaxBytesPerRequest bytes of a request are filled,
// and the used length says so, as the standard allows (5.4.6.1): a guest that asks for 4 GiB holds
// the loop for no longer than one that asks for 16 KiB. A whole drain is at most kQueueSize of
// these. Device-readable buffers, which a driver must not give (5.4.6), are not looked at.
//
// Threads: virtio/device.h.
#pragma once

#include "base/error.h"
#include "virtio/device.h"
#include "virtio/rng/backend.h"
#include "virtio/rng/state.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace mayfly::virtio::rng {

inline constexpr uint16_t kQueueSize = 16;
inline constexpr uint64_t kMaxBytesPerRequest = 16 * 1024;

class Rng final : public Device {
 public:
  explicit Rng(std::unique_ptr<EntropySource> source) : source_(std::move(source)) {}

  DeviceType type() const override { return DeviceType::kEntropy; }
  uint64_t features() const override { return 0; }
  std::span<const uint16_t> queue_sizes() const override { return kQueueSizes; }
  void read_config(uint64_t offset, std::span<std::byte> out) const override;
  void write_config(uint64_t offset, std::span<const std::byte> in) override;
  void activate(DeviceHost& host, uint64_t features, std::span<Queue> queues) override;
  void queue_notified(uint16_t index) override;
  void reset() override;
  bool idle() const override { return true; }

  State save() const { return {}; }
  Result<> restore(const State& state);

 private:
  static constexpr std::array<uint16_t, 1> kQueueSizes = {kQueueSize};

  Result<Verdict> serve(Chain& chain);

  const std::unique_ptr<EntropySource> source_;
  // Loop thread. Between activate() and reset():
  DeviceHost* host_ = nullptr;
  Queue* queue_ = nullptr;
};

}  // namespace mayfly::virtio::rng
