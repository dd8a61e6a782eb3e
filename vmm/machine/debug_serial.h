// SPDX-License-Identifier: Apache-2.0
//
// The transmit half of an 8250 serial port, for `earlycon=uart8250,io,0x3f8`: what a guest says
// before virtio-console works. Off by default; every byte is an exit. Called on vCPU threads.
#pragma once

#include "vmm/bus/bus.h"

#include <atomic>

namespace mayfly {

class DebugSerial final : public BusDevice {
 public:
  class Sink {
   public:
    /// Any vCPU thread.
    virtual void append(std::span<const std::byte> bytes) = 0;

   protected:
    ~Sink() = default;
  };

  static constexpr uint64_t kPortCount = 8;

  /// `sink` outlives the port.
  explicit DebugSerial(Sink& sink) : sink_(sink) {}

  void read(uint64_t offset, std::span<std::byte> data) override;
  void write(uint64_t offset, std::span<const std::byte> data) override;

 private:
  Sink& sink_;
  std::atomic<bool> divisor_latch_ = false;
};

}  // namespace mayfly
