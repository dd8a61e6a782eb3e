// SPDX-License-Identifier: Apache-2.0
//
// The ports a guest ends itself with: ACPI sleep control and reset (ACPI 6.5, 4.8.3), and pvpanic
// (QEMU's docs/specs/pvpanic.rst). Called on vCPU threads.
#pragma once

#include "vmm/bus/bus.h"
#include "vmm/machine/exit_reason.h"

namespace mayfly {

class PowerPorts {
 public:
  /// `listener` outlives the ports.
  explicit PowerPorts(EndListener& listener) : sleep_(listener), pvpanic_(listener) {}
  PowerPorts(const PowerPorts&) = delete;
  PowerPorts& operator=(const PowerPorts&) = delete;

  void add_to(Bus& ports);

 private:
  /// Sleep control, sleep status and reset, one after the other.
  class Sleep final : public BusDevice {
   public:
    explicit Sleep(EndListener& listener) : listener_(listener) {}
    void read(uint64_t offset, std::span<std::byte> data) override;
    void write(uint64_t offset, std::span<const std::byte> data) override;

   private:
    EndListener& listener_;
  };

  class Pvpanic final : public BusDevice {
   public:
    explicit Pvpanic(EndListener& listener) : listener_(listener) {}
    void read(uint64_t offset, std::span<std::byte> data) override;
    void write(uint64_t offset, std::span<const std::byte> data) override;

   private:
    EndListener& listener_;
  };

  Sleep sleep_;
  Pvpanic pvpanic_;
};

}  // namespace mayfly
