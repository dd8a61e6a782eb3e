// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/ioapic.h"

#include <cstring>

namespace mayfly {
namespace {

// The two registers in memory, and what the first selects (3.1, 3.2).
constexpr uint64_t kSelectOffset = 0x00;
constexpr uint64_t kWindowOffset = 0x10;
constexpr uint32_t kIdRegister = 0x00;
constexpr uint32_t kVersionRegister = 0x01;
constexpr uint32_t kArbitrationRegister = 0x02;
constexpr uint32_t kRedirectionRegister = 0x10;
constexpr uint32_t kVersion = 0x20;
constexpr uint32_t kMaxEntryShift = 16;
constexpr uint32_t kIdMask = 0x0f00'0000;

// A redirection entry (3.2.4).
constexpr uint64_t kVectorMask = 0xff;
constexpr uint64_t kDeliveryModeShift = 8;
constexpr uint64_t kLogicalDestination = 1 << 11;
constexpr uint64_t kReadOnlyBits = 1 << 12 | 1 << 14;  // delivery status, remote IRR
constexpr uint64_t kMasked = 1 << 16;
constexpr uint64_t kDestinationShift = 56;

// A message (Intel SDM volume 3, 11.11).
constexpr uint64_t kMessageAddress = 0xfee0'0000;
constexpr uint64_t kMessageLogical = 1 << 2;
constexpr uint64_t kMessageDestinationShift = 12;

}  // namespace

Ioapic::Ioapic(MessageSink& sink, uint32_t pins) : sink_(sink), pins_(pins) {
  CHECK(pins_ > 0 && pins_ <= kMaxPins);
  state_.redirection.fill(kMasked);
}

void Ioapic::send(uint64_t entry) {
  uint64_t address = kMessageAddress | (entry >> kDestinationShift) << kMessageDestinationShift;
  if ((entry & kLogicalDestination) != 0) address |= kMessageLogical;
  const uint64_t mode = entry >> kDeliveryModeShift & 7;
  sink_.signal_msi(address, static_cast<uint32_t>((entry & kVectorMask) | mode << 8));
  sent_.fetch_add(1, std::memory_order_relaxed);
}

void Ioapic::raise(uint32_t gsi) {
  CHECK(gsi < pins_);
  const std::lock_guard held(lock_);
  if ((state_.redirection[gsi] & kMasked) != 0) {
    state_.pending[gsi] = true;
  } else {
    send(state_.redirection[gsi]);
  }
}

uint32_t Ioapic::read_register() const {
  switch (state_.select) {
    case kIdRegister:
    case kArbitrationRegister:
      return state_.id;
    case kVersionRegister:
      return kVersion | (pins_ - 1) << kMaxEntryShift;
    default:
      break;
  }
  const uint32_t index = state_.select - kRedirectionRegister;
  if (state_.select < kRedirectionRegister || index / 2 >= pins_) return 0;
  return static_cast<uint32_t>(state_.redirection[index / 2] >> (index % 2 * 32));
}

void Ioapic::write_register(uint32_t value) {
  if (state_.select == kIdRegister) {
    state_.id = value & kIdMask;
    return;
  }
  const uint32_t index = state_.select - kRedirectionRegister;
  if (state_.select < kRedirectionRegister || index / 2 >= pins_) return;
  uint64_t& entry = state_.redirection[index / 2];
  if (index % 2 == 0) {
    entry = (entry & ~uint64_t{0xffff'ffff}) | (value & ~kReadOnlyBits);
  } else {
    entry = (entry & 0xffff'ffff) | uint64_t{value} << 32;
  }
  if ((entry & kMasked) == 0 && state_.pending[index / 2]) {
    state_.pending[index / 2] = false;
    send(entry);
  }
}

void Ioapic::read(uint64_t offset, std::span<std::byte> data) {
  if (data.size() != sizeof(uint32_t)) return;
  const std::lock_guard held(lock_);
  uint32_t value = 0;
  if (offset == kSelectOffset) value = state_.select;
  if (offset == kWindowOffset) value = read_register();
  std::memcpy(data.data(), &value, sizeof(value));
}

void Ioapic::write(uint64_t offset, std::span<const std::byte> data) {
  if (data.size() != sizeof(uint32_t)) return;
  uint32_t value = 0;
  std::memcpy(&value, data.data(), sizeof(value));
  const std::lock_guard held(lock_);
  if (offset == kSelectOffset) state_.select = value & 0xff;
  if (offset == kWindowOffset) write_register(value);
}

Ioapic::State Ioapic::save() const {
  const std::lock_guard held(lock_);
  return state_;
}

void Ioapic::restore(const State& state) {
  const std::lock_guard held(lock_);
  state_ = state;
  state_.select &= 0xff;
  state_.id &= kIdMask;
  for (uint64_t& entry : state_.redirection) entry &= ~kReadOnlyBits;
}

}  // namespace mayfly
