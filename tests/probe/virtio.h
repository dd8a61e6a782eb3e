// SPDX-License-Identifier: Apache-2.0
//
// A virtio-mmio (version 2) driver with split queues that polls, and leaves its rings open so that
// a test can put anything into them. Virtio 1.2: 2.7 split virtqueues, 4.2 MMIO.
#pragma once

#include <cstddef>
#include <cstdint>

namespace probe {

enum class DeviceId : uint32_t {
  kNet = 1,
  kBlk = 2,
  kConsole = 3,
  kRng = 4,
  kBalloon = 5,
  kVsock = 19
};

// Register offsets (4.2.2).
enum Register : uint64_t {
  kMagic = 0x000,
  kVersion = 0x004,
  kDeviceId = 0x008,
  kDeviceFeatures = 0x010,
  kDeviceFeaturesSel = 0x014,
  kDriverFeatures = 0x020,
  kDriverFeaturesSel = 0x024,
  kQueueSel = 0x030,
  kQueueNumMax = 0x034,
  kQueueNum = 0x038,
  kQueueReady = 0x044,
  kQueueNotify = 0x050,
  kInterruptStatus = 0x060,
  kInterruptAck = 0x064,
  kStatus = 0x070,
  kQueueDesc = 0x080,
  kQueueDriver = 0x090,
  kQueueDevice = 0x0a0,
  kConfigGeneration = 0x0fc,
  kConfig = 0x100,
};

inline constexpr uint32_t kMagicValue = 0x74726976;
inline constexpr uint32_t kAcknowledge = 1, kDriver = 2, kDriverOk = 4, kFeaturesOk = 8,
                          kNeedsReset = 0x40;
inline constexpr uint64_t kIndirectFeature = uint64_t{1} << 28,
                          kEventIdxFeature = uint64_t{1} << 29;
inline constexpr uint64_t kVersion1Feature = uint64_t{1} << 32;

inline constexpr uint16_t kNext = 1, kWrite = 2, kIndirect = 4;
inline constexpr uint16_t kNoInterrupt = 1;  // Avail::flags
inline constexpr uint16_t kNoNotify = 1;     // Used::flags

struct Descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};
static_assert(sizeof(Descriptor) == 16);

inline constexpr uint16_t kMaxQueue = 256;

// With EVENT_IDX the last field comes right after the ring that the queue has, ring[size()].
struct Avail {
  uint16_t flags;
  uint16_t index;
  uint16_t ring[kMaxQueue];
  uint16_t used_event;
};

struct UsedElement {
  uint32_t id;
  uint32_t length;
};

struct Used {
  uint16_t flags;
  uint16_t index;
  UsedElement ring[kMaxQueue];
  uint16_t avail_event;
};
static_assert(sizeof(Used) == 4 + 8 * kMaxQueue + 4);

/// One buffer of a chain.
struct Segment {
  const volatile void* bytes;
  uint32_t length;
  bool writable;
};

/// The driver's half of one queue.
class Queue {
 public:
  /// Empties the rings; `size` descriptors.
  void clear(uint16_t size);
  /// Puts a chain into the next free descriptors and makes it available; it is taken that a chain's
  /// descriptors are free again before their turn comes. Returns the chain's head.
  template <size_t n>
  uint16_t add(const Segment (&segments)[n]) {
    return add(segments, n);
  }
  uint16_t add(const Segment* segments, size_t count);
  /// Makes `head` available as it is.
  void publish(uint16_t head);
  /// Whether the device, which has these features, wants a kick for what was published since this
  /// was last asked.
  bool wants_kick(uint64_t features);
  /// Where EVENT_IDX leaves Avail::flags without a meaning: no interrupt for the next 2^15
  /// elements.
  void put_off_interrupts();
  /// The next used element, if the device has returned one.
  bool take(UsedElement& element);
  uint16_t size() const { return size_; }

  alignas(4096) Descriptor descriptors[kMaxQueue] = {};
  alignas(64) Avail avail = {};
  alignas(64) Used used = {};

 private:
  uint16_t size_ = 0;
  uint16_t next_free_ = 0;
  uint16_t last_used_ = 0;
  uint16_t last_asked_ = 0;
};

class Device {
 public:
  /// The `nth` device of this kind among the slots at probe.mmio; exists() tells.
  static Device find(DeviceId id, unsigned nth = 0);
  constexpr explicit Device(uint64_t base) : base_(base) {}

  bool exists() const { return base_ != 0; }
  uint32_t read(uint64_t offset) const;
  void write(uint64_t offset, uint32_t value) const;
  uint32_t status() const { return read(kStatus); }
  uint64_t config64(uint64_t offset) const;
  uint64_t offered() const;

  /// Resets and negotiates VERSION_1 and of `wanted` what is offered. The queues can then be set
  /// up.
  void negotiate(uint64_t wanted);
  uint64_t features() const { return features_; }
  void set_up(uint32_t index, Queue& queue, uint16_t size);
  void go() const { write(kStatus, kAcknowledge | kDriver | kFeaturesOk | kDriverOk); }
  void kick(uint32_t queue) const { write(kQueueNotify, queue); }
  /// Returns once the device has reset.
  void reset() const;
  uint64_t base() const { return base_; }

 private:
  uint64_t base_;
  uint64_t features_ = 0;
};

/// Polls `queue` until the device returns something, breaks, or patience ends.
enum class Outcome : uint8_t { kUsed, kBroken, kSilent };
Outcome wait(const Device& device, Queue& queue, UsedElement& element, uint64_t patience);
const char* name_of(Outcome outcome);

}  // namespace probe
