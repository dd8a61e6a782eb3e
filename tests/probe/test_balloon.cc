// SPDX-License-Identifier: Apache-2.0
//
// A balloon's driver for the test `pages`: does what it is told, well or badly.
#include "tests/probe/probe.h"
#include "tests/probe/virtio.h"

#include <algorithm>

namespace probe {
namespace {

constexpr uint64_t kReporting = 1u << 5;
constexpr uint32_t kInflate = 0, kDeflate = 1, kReport = 2;
// A request's page numbers, as many as Linux sends.
constexpr uint64_t kAtOnce = 256;
constexpr uint64_t kPageBytes = 4096;

constinit Queue queues[3]{};

Device& device() {
  static Device found = Device::find(DeviceId::kBalloon);
  static bool is_set_up = false;
  require(found.exists(), "no balloon");
  if (is_set_up) return found;
  is_set_up = true;
  found.negotiate(kReporting);
  found.set_up(kInflate, queues[kInflate], 16);
  found.set_up(kDeflate, queues[kDeflate], 16);
  if ((found.features() & kReporting) != 0) found.set_up(kReport, queues[kReport], 32);
  found.go();
  return found;
}

const char* exchange(uint32_t queue, const Segment& segment) {
  UsedElement element;
  queues[queue].add({segment});
  device().kick(queue);
  return name_of(wait(device(), queues[queue], element, kPatience));
}

}  // namespace

bool balloon_command(uint8_t command, uint64_t first, uint64_t count) {
  static uint32_t numbers[kAtOnce];
  const char* outcome = "used";
  switch (command) {
    case 'i':
    case 'd':
      device();
      while (count != 0) {
        const uint64_t now = std::min(count, kAtOnce);
        // From the last to the first, as Linux may.
        for (uint64_t i = 0; i < now; ++i) numbers[i] = static_cast<uint32_t>(first + now - 1 - i);
        outcome = exchange(command == 'i' ? kInflate : kDeflate,
                           {numbers, static_cast<uint32_t>(now * sizeof(uint32_t)), false});
        first += now;
        count -= now;
      }
      break;
    case 'f':
      device();
      outcome = exchange(kReport, {reinterpret_cast<void*>(first * kPageBytes),
                                   static_cast<uint32_t>(count * kPageBytes), true});
      break;
    case 'a':
      device().write(kConfig + 4, static_cast<uint32_t>(first));
      break;
    case 't':
      break;
    default:
      return false;
  }
  Line() << "balloon " << outcome << " target " << device().read(kConfig);
  return true;
}

}  // namespace probe
