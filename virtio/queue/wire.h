// SPDX-License-Identifier: Apache-2.0
//
// The split virtqueue as it lies in guest memory (virtio 1.2, sections 2.7.5 to 2.7.8). Every field
// is the driver's to write at any time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mayfly::virtio {

/// struct virtq_desc.
struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);
static_assert(offsetof(Descriptor, length) == 8);
static_assert(offsetof(Descriptor, flags) == 12);
static_assert(offsetof(Descriptor, next) == 14);

/// VIRTQ_DESC_F_*.
inline constexpr uint16_t kDescriptorNext = 1;
inline constexpr uint16_t kDescriptorWrite = 2;
inline constexpr uint16_t kDescriptorIndirect = 4;

/// struct virtq_used_elem.
struct UsedElement {
  uint32_t id;
  uint32_t length;
};
static_assert(sizeof(UsedElement) == 8);

/// VIRTQ_AVAIL_F_NO_INTERRUPT and VIRTQ_USED_F_NO_NOTIFY.
inline constexpr uint16_t kAvailNoInterrupt = 1;
inline constexpr uint16_t kUsedNoNotify = 1;

/// struct virtq_avail: flags, idx, ring[size], used_event.
namespace avail_ring {
inline constexpr uint64_t kFlags = 0;
inline constexpr uint64_t kIndex = 2;
constexpr uint64_t slot(uint16_t index) { return 4 + uint64_t{2} * index; }
constexpr uint64_t used_event(uint16_t size) { return slot(size); }
constexpr uint64_t bytes(uint16_t size, bool event_idx) { return slot(size) + (event_idx ? 2 : 0); }
}  // namespace avail_ring

/// struct virtq_used: flags, idx, ring[size], avail_event.
namespace used_ring {
inline constexpr uint64_t kFlags = 0;
inline constexpr uint64_t kIndex = 2;
constexpr uint64_t slot(uint16_t index) { return 4 + sizeof(UsedElement) * index; }
constexpr uint64_t avail_event(uint16_t size) { return slot(size); }
constexpr uint64_t bytes(uint16_t size, bool event_idx) { return slot(size) + (event_idx ? 2 : 0); }
}  // namespace used_ring

/// 2.7.10: whether an index that moved from `before` to `now` has passed `event`.
constexpr bool event_passed(uint16_t event, uint16_t now, uint16_t before) {
  return static_cast<uint16_t>(now - event - 1) < static_cast<uint16_t>(now - before);
}

}  // namespace mayfly::virtio
