// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/vmclock.h"

#include "vmm/boot/layout.h"

#include <atomic>

namespace mayfly::boot {
namespace {

constexpr uint64_t kSeqCount = offsetof(VmClockPage, seq_count);

// Another number than the one that is there, whatever was drawn.
void change(const GuestSpan& page, uint64_t offset, uint64_t drawn) {
  page.store(offset, page.load<uint64_t>(offset) == drawn ? drawn + 1 : drawn);
}

}  // namespace

Result<> load_vmclock(const GuestMemory& memory, const VmClockMarkers& markers) {
  VmClockPage page = {};
  page.magic = kVmClockMagic;
  page.size = static_cast<uint32_t>(kVmClockSize);
  page.version = kVmClockVersion;
  page.counter_id = kVmClockCounterInvalid;
  page.disruption_marker = markers.disruption;
  page.flags = kVmClockFlagGenerationCounter | kVmClockFlagNotification;
  page.vm_generation_counter = markers.generation;
  TRY(memory.view({kVmClock, kVmClockSize})).store(0, page);
  return {};
}

Result<bool> disrupt_vmclock(const GuestMemory& memory, const VmClockMarkers& markers) {
  const GuestSpan page = TRY(memory.view({kVmClock, kVmClockSize}));
  if (page.load<uint32_t>(offsetof(VmClockPage, magic)) != kVmClockMagic ||
      page.load<uint32_t>(offsetof(VmClockPage, size)) != kVmClockSize ||
      page.load<uint16_t>(offsetof(VmClockPage, version)) != kVmClockVersion) {
    return false;
  }
  // Whoever in the guest was reading as it was saved starts again.
  const uint32_t odd = page.load<uint32_t>(kSeqCount) | 1;
  page.store(kSeqCount, odd);
  std::atomic_thread_fence(std::memory_order_release);
  change(page, offsetof(VmClockPage, disruption_marker), markers.disruption);
  change(page, offsetof(VmClockPage, vm_generation_counter), markers.generation);
  std::atomic_thread_fence(std::memory_order_release);
  page.store(kSeqCount, odd + 1);
  return true;
}

}  // namespace mayfly::boot
