// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/power_ports.h"

#include "vmm/boot/layout.h"

namespace mayfly {

void PowerPorts::add_to(Bus& ports) {
  ports.add(boot::kSleepControlPort, boot::kResetPort - boot::kSleepControlPort + 1, sleep_);
  ports.add(boot::kPvpanicPort, 1, pvpanic_);
}

// No state: the guest is awake until the write that ends it.
void PowerPorts::Sleep::read(uint64_t, std::span<std::byte>) {}

void PowerPorts::Sleep::write(uint64_t offset, std::span<const std::byte> data) {
  const auto value = std::to_integer<uint8_t>(data[0]);
  const uint64_t port = boot::kSleepControlPort + offset;
  if (port == boot::kResetPort && value == boot::kResetValue) {
    listener_.end(ExitReason::kGuestReboot, "");
  }
  if (port == boot::kSleepControlPort && value == (boot::kSleepTypeS5 << 2 | boot::kSleepEnable)) {
    listener_.end(ExitReason::kGuestPoweroff, "");
  }
}

void PowerPorts::Pvpanic::read(uint64_t, std::span<std::byte> data) {
  data[0] = std::byte{boot::kPvpanicPanicked};
}

void PowerPorts::Pvpanic::write(uint64_t, std::span<const std::byte> data) {
  const auto events = std::to_integer<uint8_t>(data[0]);
  if ((events & boot::kPvpanicPanicked) != 0) {
    listener_.panicked();
  }
}

}  // namespace mayfly
