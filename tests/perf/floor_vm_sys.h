// SPDX-License-Identifier: Apache-2.0
//
// The least a KVM monitor can do: one VM that runs two instructions. Its own few ioctls, apart from
// the monitor's code, because it is what the monitor is measured against.
#pragma once

#include "base/error.h"

#include <cstdint>

namespace mayfly::perf {

enum class IoctlOrder : uint8_t {
  /// The memory slot before anything else, split irqchip, no ioeventfd.
  kFloor,
  /// What Firecracker does: irqchip and PIT in the kernel, vCPU, only then memory, then an
  /// ioeventfd
  /// and an irqfd for each of two devices.
  kFirecracker,
};

/// Builds the VM, runs it until its port write arrives, and leaves the rest to the process's end.
Result<> run_floor_vm(IoctlOrder order, uint64_t memory_bytes);

}  // namespace mayfly::perf
