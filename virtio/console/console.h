// SPDX-License-Identifier: Apache-2.0
//
// The virtio console device (virtio 1.2, section 5.3), with its one port: a receive queue that the
// host's input fills and a transmit queue whose bytes go to a sink. With a size, if it is given
// one.
//
// The guest controls every chain. Of one request at most kMaxBytesPerRequest bytes are shown; a
// longer one, which no driver sends, loses its end, so that it cannot hold the loop. Output never
// waits: the sink forgets what it has no room for.
//
// Threads: virtio/device.h. Created and destroyed on the loop thread.
#pragma once

#include "base/error.h"
#include "virtio/console/backend.h"
#include "virtio/console/state.h"
#include "virtio/console/wire.h"
#include "virtio/device.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace mayfly::virtio::console {

inline constexpr uint16_t kQueueSize = 64;
inline constexpr uint64_t kMaxBytesPerRequest = 64 * 1024;

/// In characters. Both 0: none is told to the guest.
struct Size {
  uint16_t columns = 0;
  uint16_t rows = 0;
};

/// Since creation; they never go back.
struct Counters {
  uint64_t output_bytes = 0;
  uint64_t input_bytes = 0;
  uint64_t dropped_bytes = 0;  ///< beyond kMaxBytesPerRequest
};

class Console final : public Device, private InputClient {
 public:
  /// Without an input, the guest never receives anything.
  Console(std::unique_ptr<ConsoleSink> sink, std::unique_ptr<ConsoleInput> input, Size size = {});

  DeviceType type() const override { return DeviceType::kConsole; }
  uint64_t features() const override;
  std::span<const uint16_t> queue_sizes() const override { return kQueueSizes; }
  void read_config(uint64_t offset, std::span<std::byte> out) const override;
  void write_config(uint64_t offset, std::span<const std::byte> in) override;
  void activate(DeviceHost& host, uint64_t features, std::span<Queue> queues) override;
  void queue_notified(uint16_t index) override;
  void reset() override;
  bool idle() const override { return true; }

  State save() const { return {size_.columns, size_.rows}; }
  /// Before activate().
  Result<> restore(const State& state);

  const Counters& counters() const { return counters_; }

 private:
  static constexpr std::array<uint16_t, 2> kQueueSizes = {kQueueSize, kQueueSize};
  static constexpr size_t kChunkSize = 4096;

  void on_input() override;
  void serve(uint16_t index);
  Result<Verdict> receive(Chain& chain);
  Result<Verdict> transmit(Chain& chain);

  const std::unique_ptr<ConsoleSink> sink_;
  const std::unique_ptr<ConsoleInput> input_;
  Size size_;
  Counters counters_;
  std::array<std::byte, kChunkSize> chunk_ = {};
  // Between activate() and reset():
  DeviceHost* host_ = nullptr;
  std::span<Queue> queues_;
};

}  // namespace mayfly::virtio::console
