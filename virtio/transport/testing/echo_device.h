// SPDX-License-Identifier: Apache-2.0
//
// A device for the transport's tests: queue 0 answers each request with itself, queue 1 keeps
// requests until the test completes them. Its configuration is 16 bytes that can be written.
#pragma once

#include "virtio/device.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace mayfly::virtio::testing {

class EchoDevice final : public Device {
 public:
  static constexpr uint64_t kFeature = 1 << 5;

  DeviceType type() const override { return DeviceType::kConsole; }
  uint64_t features() const override { return kFeature; }
  std::span<const uint16_t> queue_sizes() const override { return kSizes; }

  void read_config(uint64_t offset, std::span<std::byte> out) const override {
    for (size_t i = 0; i < out.size() && offset < config.size() - i; ++i) {
      out[i] = config[offset + i];
    }
  }
  void write_config(uint64_t offset, std::span<const std::byte> in) override {
    for (size_t i = 0; i < in.size() && offset < config.size() - i; ++i) {
      config[offset + i] = in[i];
    }
  }

  void activate(DeviceHost& device_host, uint64_t features, std::span<Queue> its_queues) override {
    host = &device_host;
    negotiated = features;
    queues = its_queues;
    ++activations;
  }

  void queue_notified(uint16_t index) override {
    ++notifications[index];
    const auto result = queues[index].drain([&](Chain& chain) -> Result<Verdict> {
      if (index == 1) {
        kept.push_back(chain.head);
        return later();
      }
      std::array<std::byte, 64> bytes;
      const size_t size = chain.reader.read_some(bytes);
      TRY(chain.writer.write(std::span(bytes).first(size)));
      return done(chain.writer.written());
    });
    if (!result) return host->needs_reset(result.error());
    host->queue_used(index);
  }

  /// Completes what queue 1 keeps, after a reset without telling the guest.
  void finish_kept() {
    for (const uint16_t head : kept) {
      if (host != nullptr) queues[1].complete(head, 0);
    }
    kept.clear();
    if (host != nullptr) host->queue_used(1);
  }

  void reset() override {
    host = nullptr;
    queues = {};
    ++resets;
  }
  bool idle() const override { return kept.empty(); }

  std::array<std::byte, 16> config{};
  DeviceHost* host = nullptr;
  std::span<Queue> queues;
  uint64_t negotiated = 0;
  int activations = 0;
  int resets = 0;
  std::array<int, 2> notifications{};
  std::vector<uint16_t> kept;

 private:
  static constexpr std::array<uint16_t, 2> kSizes = {8, 4};
};

}  // namespace mayfly::virtio::testing
