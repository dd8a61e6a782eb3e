// SPDX-License-Identifier: Apache-2.0
//
// The transport's registers where no driver goes: wrong widths and offsets, read-only and absent
// registers, features that were not offered. Nothing may break; every device must work (its
// registers read) afterwards.
#include "tests/probe/cpu_sys.h"
#include "tests/probe/probe.h"
#include "tests/probe/virtio.h"

#include <initializer_list>

namespace probe {
namespace {

void poke(const Device& device) {
  const uint64_t base = device.base();
  for (uint64_t offset = 0; offset < 0x140; ++offset) {
    (void)read_register<uint8_t>(base + offset);
    (void)read_register<uint16_t>(base + offset);
  }
  for (uint64_t offset = 0; offset < 0x1000 - 8; offset += 36) {
    (void)read_register<uint64_t>(base + offset);
    (void)read_register<uint32_t>(base + offset);
  }
  for (uint64_t offset = 0; offset < 0x120; offset += 3)
    write_register<uint8_t>(base + offset, 0xff);
  for (uint64_t offset = 0; offset < 0x120; offset += 8)
    write_register<uint64_t>(base + offset, ~0ull);
  for (const uint64_t offset : {kMagic, kVersion, kDeviceId, kDeviceFeatures, kQueueNumMax,
                                kInterruptStatus, kConfigGeneration}) {
    device.write(offset, 0xffffffff);
  }
}

void ask_for_too_much(const Device& device) {
  device.reset();
  device.write(kStatus, kAcknowledge);
  device.write(kStatus, kAcknowledge | kDriver);
  device.write(kDriverFeaturesSel, 0);
  device.write(kDriverFeatures, 0xffffffff);
  device.write(kDriverFeaturesSel, 1);
  device.write(kDriverFeatures, 0xffffffff);
  device.write(kStatus, kAcknowledge | kDriver | kFeaturesOk);
  require((device.status() & kFeaturesOk) == 0, "FEATURES_OK with features that were not offered");
}

}  // namespace

void test_registers() {
  unsigned found = 0;
  for (const DeviceId id : {DeviceId::kBlk, DeviceId::kRng, DeviceId::kVsock, DeviceId::kConsole}) {
    Device device = Device::find(id);
    if (!device.exists()) continue;
    ++found;
    poke(device);
    ask_for_too_much(device);
    device.write(kQueueSel, 0xffffffff);
    require(device.read(kQueueNumMax) == 0, "a queue that cannot exist has a size");
    device.reset();
    require(device.read(kMagic) == kMagicValue, "the magic value changed");
    device.negotiate(0);
    device.reset();
  }
  start_report();
  require(found > 0, "no device at all");
  Line() << found << " devices survived";
}

}  // namespace probe
