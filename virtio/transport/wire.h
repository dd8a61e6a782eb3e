// SPDX-License-Identifier: Apache-2.0
//
// Numbers of the virtio-mmio transport (virtio 1.2, sections 2.1 and 4.2.2). The registers
// themselves are the table in mmio.cc.
#pragma once

#include <cstdint>

namespace mayfly::virtio {

/// "virt", and the version that is not legacy.
inline constexpr uint32_t kMmioMagic = 0x7472'6976;
inline constexpr uint32_t kMmioVersion = 2;
/// "MFLY". Free to choose; drivers do not look at it.
inline constexpr uint32_t kMmioVendor = 0x594c'464d;

/// Where the registers end and the device's configuration space begins, and the size of both.
inline constexpr uint64_t kMmioConfigOffset = 0x100;
inline constexpr uint64_t kMmioSizeBytes = 0x1000;

/// Device status (2.1).
namespace status {
inline constexpr uint32_t kAcknowledge = 1;
inline constexpr uint32_t kDriver = 2;
inline constexpr uint32_t kDriverOk = 4;
inline constexpr uint32_t kFeaturesOk = 8;
inline constexpr uint32_t kNeedsReset = 64;
inline constexpr uint32_t kFailed = 128;
/// What the driver may set.
inline constexpr uint32_t kOfDriver = kAcknowledge | kDriver | kDriverOk | kFeaturesOk | kFailed;
}  // namespace status

/// InterruptStatus and InterruptACK.
inline constexpr uint32_t kInterruptUsed = 1;
inline constexpr uint32_t kInterruptConfig = 2;

}  // namespace mayfly::virtio
