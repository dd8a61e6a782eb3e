// SPDX-License-Identifier: Apache-2.0
#include "tests/probe/virtio.h"

#include "tests/probe/cpu_sys.h"
#include "tests/probe/probe.h"

namespace probe {
namespace {

constexpr uint64_t kDefaultBase = 0xd0000000;
constexpr uint64_t kDefaultStride = 0x1000;
constexpr uint64_t kDefaultSlots = 19;
// Looking at the status costs an exit, so the ring is polled this often in between.
constexpr unsigned kPollsPerStatus = 20'000;
// Of a ring after its flags and its index.
constexpr uint64_t kRingOffset = 4;

}  // namespace

void Queue::clear(uint16_t size) {
  size_ = size;
  next_free_ = last_used_ = last_asked_ = 0;
  for (Descriptor& each : descriptors) each = {};
  avail.flags = kNoInterrupt;
  avail.index = avail.used_event = 0;
  used.flags = used.index = used.avail_event = 0;
}

uint16_t Queue::add(const Segment* segments, size_t count) {
  const uint16_t head = next_free_;
  for (size_t i = 0; i < count; ++i) {
    const auto next = static_cast<uint16_t>((next_free_ + 1) % size_);
    Descriptor& descriptor = descriptors[next_free_];
    descriptor.address = address_of(segments[i].bytes);
    descriptor.length = segments[i].length;
    descriptor.flags =
        static_cast<uint16_t>((segments[i].writable ? kWrite : 0) | (i + 1 < count ? kNext : 0));
    descriptor.next = next;
    next_free_ = next;
  }
  publish(head);
  return head;
}

void Queue::publish(uint16_t head) {
  avail.ring[avail.index % size_] = head;
  __atomic_store_n(&avail.index, static_cast<uint16_t>(avail.index + 1), __ATOMIC_RELEASE);
}

bool Queue::wants_kick(uint64_t features) {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  const uint16_t last = last_asked_;
  last_asked_ = avail.index;
  if ((features & kEventIdxFeature) == 0) {
    return last != avail.index && (*const_cast<volatile uint16_t*>(&used.flags) & kNoNotify) == 0;
  }
  const uint16_t event = *reinterpret_cast<volatile uint16_t*>(address_of(&used) + kRingOffset +
                                                               sizeof(UsedElement) * size_);
  return static_cast<uint16_t>(avail.index - event - 1) < static_cast<uint16_t>(avail.index - last);
}

void Queue::put_off_interrupts() {
  *reinterpret_cast<volatile uint16_t*>(address_of(&avail) + kRingOffset + 2 * size_) =
      static_cast<uint16_t>(last_used_ + 0x8000);
}

bool Queue::take(UsedElement& element) {
  if (__atomic_load_n(&used.index, __ATOMIC_ACQUIRE) == last_used_) return false;
  element = used.ring[last_used_ % size_];
  ++last_used_;
  return true;
}

Device Device::find(DeviceId id, unsigned nth) {
  const uint64_t base = number_option("mmio", kDefaultBase);
  const uint64_t stride = number_option("stride", kDefaultStride);
  const uint64_t slots = number_option("slots", kDefaultSlots);
  for (uint64_t slot = 0; slot < slots; ++slot) {
    const Device device(base + slot * stride);
    if (device.read(kMagic) != kMagicValue) continue;
    if (device.read(kDeviceId) == static_cast<uint32_t>(id) && nth-- == 0) return device;
  }
  return Device(0);
}

uint32_t Device::read(uint64_t offset) const { return read_register<uint32_t>(base_ + offset); }

void Device::write(uint64_t offset, uint32_t value) const {
  write_register<uint32_t>(base_ + offset, value);
}

uint64_t Device::config64(uint64_t offset) const {
  return read(kConfig + offset) | uint64_t{read(kConfig + offset + 4)} << 32;
}

uint64_t Device::offered() const {
  write(kDeviceFeaturesSel, 0);
  const uint64_t low = read(kDeviceFeatures);
  write(kDeviceFeaturesSel, 1);
  return low | uint64_t{read(kDeviceFeatures)} << 32;
}

void Device::reset() const {
  write(kStatus, 0);
  const uint64_t begin = cycles();
  while (status() != 0) require(cycles() - begin < kPatience, "reset: the status never became 0");
}

void Device::negotiate(uint64_t wanted) {
  require(read(kVersion) == 2, "version is not 2");
  reset();
  write(kStatus, kAcknowledge);
  write(kStatus, kAcknowledge | kDriver);
  features_ = offered() & (wanted | kVersion1Feature);
  require((features_ & kVersion1Feature) != 0, "VERSION_1 is not offered");
  write(kDriverFeaturesSel, 0);
  write(kDriverFeatures, static_cast<uint32_t>(features_));
  write(kDriverFeaturesSel, 1);
  write(kDriverFeatures, static_cast<uint32_t>(features_ >> 32));
  write(kStatus, kAcknowledge | kDriver | kFeaturesOk);
  require((status() & kFeaturesOk) != 0, "FEATURES_OK was refused");
}

void Device::set_up(uint32_t index, Queue& queue, uint16_t size) {
  write(kQueueSel, index);
  const uint32_t most = read(kQueueNumMax);
  require(most != 0, "the queue does not exist");
  if (size > most) size = static_cast<uint16_t>(most);
  queue.clear(size);
  write(kQueueNum, size);
  const auto write64 = [this](uint64_t offset, uint64_t value) {
    write(offset, static_cast<uint32_t>(value));
    write(offset + 4, static_cast<uint32_t>(value >> 32));
  };
  write64(kQueueDesc, address_of(queue.descriptors));
  write64(kQueueDriver, address_of(&queue.avail));
  write64(kQueueDevice, address_of(&queue.used));
  write(kQueueReady, 1);
}

Outcome wait(const Device& device, Queue& queue, UsedElement& element, uint64_t patience) {
  const uint64_t begin = cycles();
  do {
    for (unsigned i = 0; i < kPollsPerStatus; ++i) {
      if (queue.take(element)) return Outcome::kUsed;
      relax();
    }
    if ((device.status() & kNeedsReset) != 0) return Outcome::kBroken;
  } while (cycles() - begin < patience);
  return Outcome::kSilent;
}

const char* name_of(Outcome outcome) {
  switch (outcome) {
    case Outcome::kUsed:
      return "used";
    case Outcome::kBroken:
      return "needs-reset";
    case Outcome::kSilent:
      break;
  }
  return "silent";
}

}  // namespace probe
