// SPDX-License-Identifier: Apache-2.0
#include "virtio/queue/queue.h"

#include <atomic>
#include <bit>
#include <limits>

namespace mayfly::virtio {
namespace {

constexpr uint64_t kMaxChainBytes = std::numeric_limits<uint32_t>::max();

unsigned long long printable(uint64_t value) { return value; }

// 2.7: alignment 16, 2 and 4.
Result<GuestSpan> view_ring(const GuestMemory& memory, const char* name, Gpa start, uint64_t size,
                            uint64_t alignment) {
  if (start.value % alignment != 0) {
    return fail({Code::kInvalidArgument, "QUEUE_ALIGNMENT"},
                "queue: %s at 0x%llx is not aligned to %llu bytes", name, printable(start.value),
                printable(alignment));
  }
  Result<GuestSpan> span = memory.view({start, size});
  if (!span) return std::unexpected(std::move(span).error().with_context(name));
  return span;
}

// A store to one ring must be visible before a load of the other: the driver does the mirror image,
// and at least one side must see what the other wrote (2.7.7.1, 2.7.10.1, 2.7.13.3).
void store_load_fence() { std::atomic_thread_fence(std::memory_order_seq_cst); }

}  // namespace

Result<> Queue::activate(const GuestMemory& memory, const QueueState& state, uint16_t max_size,
                         bool event_idx, bool indirect) {
  reset();
  CHECK(max_size <= kMaxQueueSize);
  const uint16_t size = state.size;
  if (!std::has_single_bit(size) || size > max_size) {
    return fail({Code::kInvalidArgument, "QUEUE_SIZE"},
                "queue: size %u is not a power of two up to %u", size, max_size);
  }
  const auto in_flight = static_cast<uint16_t>(state.next_avail - state.next_used);
  if (in_flight > size) {
    return fail({Code::kInvalidArgument, "QUEUE_INDEX"},
                "queue: next_avail %u is not within size %u of next_used %u", state.next_avail,
                size, state.next_used);
  }
  descriptors_ = TRY(view_ring(memory, "descriptor table", state.descriptors,
                               sizeof(Descriptor) * size, sizeof(Descriptor)));
  driver_area_ = TRY(
      view_ring(memory, "driver area", state.driver_area, avail_ring::bytes(size, event_idx), 2));
  device_area_ = TRY(
      view_ring(memory, "device area", state.device_area, used_ring::bytes(size, event_idx), 4));
  scratch_.resize(size);
  state_ = state;
  state_.ready = true;
  event_idx_ = event_idx;
  indirect_ = indirect;
  memory_ = &memory;
  return {};
}

void Queue::reset() {
  memory_ = nullptr;
  state_ = {};
  event_idx_ = false;
  indirect_ = false;
  broken_ = false;
  used_since_interrupt_ = false;
  interrupted_before_ = false;
  used_at_interrupt_ = 0;
  in_flight_.reset();
  descriptors_ = {};
  driver_area_ = {};
  device_area_ = {};
}

std::unexpected<Error> Queue::broken(std::unexpected<Error> error) {
  broken_ = true;
  return error;
}

Result<bool> Queue::pop(Chain& chain) {
  const uint16_t avail_index = driver_area_.load_acquire_u16(avail_ring::kIndex);
  const auto waiting = static_cast<uint16_t>(avail_index - state_.next_avail);
  if (waiting == 0) return false;
  if (waiting > state_.size) {
    return broken(fail({Code::kInvalidArgument, "QUEUE_AVAIL_INDEX"},
                       "queue: avail index %u is %u ahead in a ring of %u", avail_index, waiting,
                       state_.size));
  }
  const auto slot = static_cast<uint16_t>(state_.next_avail % state_.size);
  const auto head = driver_area_.load<uint16_t>(avail_ring::slot(slot));
  if (head >= state_.size) {
    return broken(fail({Code::kInvalidArgument, "QUEUE_HEAD"},
                       "queue: avail ring names descriptor %u of %u", head, state_.size));
  }
  if (in_flight_.test(head)) {
    return broken(fail({Code::kInvalidArgument, "QUEUE_HEAD_IN_FLIGHT"},
                       "queue: descriptor %u is made available while the device has it", head));
  }
  Result<> walked = walk(head, chain);
  if (!walked) return broken(std::unexpected(std::move(walked).error()));
  ++state_.next_avail;
  in_flight_.set(head);
  return true;
}

void Queue::put_back(uint16_t head) {
  if (!ready()) return;
  --state_.next_avail;
  in_flight_.reset(head);
}

Result<> Queue::walk(uint16_t head, Chain& chain) {
  Walk walk;
  GuestSpan table = descriptors_;
  uint64_t entries = state_.size;
  bool in_indirect = false;
  uint64_t index = head;
  while (walk.descriptors < state_.size) {
    const auto descriptor = table.load<Descriptor>(index * sizeof(Descriptor));
    if ((descriptor.flags & kDescriptorIndirect) != 0) {
      if (in_indirect) {
        return fail({Code::kInvalidArgument, "QUEUE_INDIRECT"},
                    "queue: an indirect table holds an indirect descriptor");
      }
      table = TRY(indirect_table(descriptor));
      entries = table.size() / sizeof(Descriptor);
      in_indirect = true;
      index = 0;
      continue;
    }
    TRY(add_buffer(descriptor, walk));
    if ((descriptor.flags & kDescriptorNext) == 0) {
      const std::span<const GuestSpan> spans = std::span(scratch_).first(walk.spans);
      chain.head = head;
      chain.reader = ChainReader(spans.first(walk.readable));
      chain.writer = ChainWriter(spans.subspan(walk.readable));
      return {};
    }
    if (descriptor.next >= entries) {
      return fail({Code::kInvalidArgument, "QUEUE_NEXT"},
                  "queue: a chain goes on at descriptor %u of %llu", descriptor.next,
                  printable(entries));
    }
    index = descriptor.next;
  }
  return fail({Code::kInvalidArgument, "QUEUE_CHAIN_LENGTH"},
              "queue: a chain has more than %u descriptors, or a loop", state_.size);
}

Result<GuestSpan> Queue::indirect_table(const Descriptor& descriptor) const {
  if (!indirect_) {
    return fail({Code::kInvalidArgument, "QUEUE_INDIRECT"},
                "queue: an indirect descriptor, which was not negotiated");
  }
  // 2.7.5.3.1; the WRITE flag is to be ignored (2.7.5.3.2).
  if ((descriptor.flags & kDescriptorNext) != 0) {
    return fail({Code::kInvalidArgument, "QUEUE_INDIRECT"},
                "queue: an indirect descriptor is followed by another");
  }
  if (descriptor.length == 0 || descriptor.length % sizeof(Descriptor) != 0) {
    return fail({Code::kInvalidArgument, "QUEUE_INDIRECT"},
                "queue: an indirect table of %u bytes is not a multiple of 16 above 0",
                descriptor.length);
  }
  return memory_->view({Gpa{descriptor.address}, descriptor.length});
}

Result<> Queue::add_buffer(const Descriptor& descriptor, Walk& walk) {
  ++walk.descriptors;
  const bool writable = (descriptor.flags & kDescriptorWrite) != 0;
  if (!writable && walk.writing) {
    return fail({Code::kInvalidArgument, "QUEUE_ORDER"},
                "queue: a device-readable buffer follows a device-writable one");
  }
  walk.writing = writable;
  if (descriptor.length == 0) return {};
  walk.bytes += descriptor.length;
  if (walk.bytes > kMaxChainBytes) {
    return fail({Code::kInvalidArgument, "QUEUE_CHAIN_BYTES"},
                "queue: a chain of more than %llu bytes", printable(kMaxChainBytes));
  }
  // walk.spans < walk.descriptors <= size(), as many as scratch_ has.
  scratch_[walk.spans++] = TRY(memory_->view({Gpa{descriptor.address}, descriptor.length}));
  if (!writable) ++walk.readable;
  return {};
}

void Queue::complete(uint16_t head, uint32_t written) {
  if (!ready()) return;
  CHECK(head < state_.size);
  in_flight_.reset(head);
  const auto slot = static_cast<uint16_t>(state_.next_used % state_.size);
  device_area_.store(used_ring::slot(slot), UsedElement{head, written});
  ++state_.next_used;
  device_area_.store_release_u16(used_ring::kIndex, state_.next_used);
  used_since_interrupt_ = true;
}

bool Queue::take_interrupt() {
  if (!ready() || !used_since_interrupt_) return false;
  used_since_interrupt_ = false;
  store_load_fence();
  if (!event_idx_) {
    const uint16_t flags = driver_area_.load_acquire_u16(avail_ring::kFlags);
    return (flags & kAvailNoInterrupt) == 0;
  }
  const uint16_t before = std::exchange(used_at_interrupt_, state_.next_used);
  // How far the driver had got before this queue was taken into use is not known: interrupt.
  if (!std::exchange(interrupted_before_, true)) return true;
  const uint16_t event = driver_area_.load_acquire_u16(avail_ring::used_event(state_.size));
  return event_passed(event, state_.next_used, before);
}

uint16_t Queue::available() const {
  return ready() ? driver_area_.load_acquire_u16(avail_ring::kIndex) : uint16_t{0};
}

bool Queue::notify_beyond(uint16_t index) {
  if (!ready()) return false;
  if (event_idx_) {
    device_area_.store_release_u16(used_ring::avail_event(state_.size), index);
  } else {
    device_area_.store_release_u16(used_ring::kFlags, 0);
  }
  store_load_fence();
  return available() != index;
}

void Queue::disable_notifications() {
  // With event_idx the flag stays 0 (2.7.10.1): avail_event, left behind, says the same.
  if (!ready() || event_idx_) return;
  device_area_.store_release_u16(used_ring::kFlags, kUsedNoNotify);
}

void Queue::notify_again() {
  if (wake_.valid()) signal_event(wake_);
}

}  // namespace mayfly::virtio
