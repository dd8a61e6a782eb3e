// SPDX-License-Identifier: Apache-2.0
//
// The register map of the transport, and the registers that only hold a value.
#include "virtio/transport/mmio.h"
#include "virtio/transport/wire.h"

#include <limits>

namespace mayfly::virtio {

using Q = QueueState;

struct MmioTransport::Register {
  uint32_t offset;
  const char* name;
  bool locked;                                                // false: lock-free
  uint32_t (*read)(const MmioTransport&);                     // null: reads as zero
  void (*write)(MmioTransport&, uint32_t value, Held& held);  // null: ignored
};

// What the rows call; H for handlers, so that a row fits its line.
struct MmioTransport::H {
  using T = MmioTransport;

  template <uint32_t kValue>
  static uint32_t constant(const T&) {
    return kValue;
  }

  static void select_device_features(T& t, uint32_t value, Held&) {
    t.device_features_sel_ = value;
  }
  static void select_driver_features(T& t, uint32_t value, Held&) {
    t.driver_features_sel_ = value;
  }
  static void select_queue(T& t, uint32_t value, Held&) { t.queue_sel_ = value; }

  static uint32_t device_id(const T& t) { return static_cast<uint32_t>(t.parts_.device.type()); }

  static uint32_t device_features(const T& t) {
    if (t.device_features_sel_ > 1) return 0;
    return static_cast<uint32_t>(t.offered() >> (t.device_features_sel_ * 32));
  }

  static void write_driver_features(T& t, uint32_t value, Held&) {
    // Once negotiated they stay (2.2).
    if (t.driver_features_sel_ > 1 || (t.status_ & status::kFeaturesOk) != 0) return;
    t.driver_features_ = with_half(t.driver_features_, t.driver_features_sel_ * 32, value);
  }

  static uint32_t queue_num_max(const T& t) {
    return selected(t) ? t.parts_.device.queue_sizes()[t.queue_sel_] : 0;
  }

  static void write_queue_num(T& t, uint32_t value, Held&) {
    // What does not fit is no valid size, and 0 is not either.
    const bool fits = value <= std::numeric_limits<uint16_t>::max();
    if (QueueState* q = programmable(t)) q->size = fits ? static_cast<uint16_t>(value) : 0;
  }

  static uint32_t queue_ready(const T& t) { return selected(t) && selected(t)->ready ? 1 : 0; }

  static void write_queue_ready(T& t, uint32_t value, Held&) {
    if (!selected(t) || t.active_) return;
    t.programmed_[t.queue_sel_].ready = (value & 1) != 0;
  }

  /// One half of an address of the selected queue.
  template <Gpa QueueState::* kAddress, unsigned kShift>
  static void address(T& t, uint32_t value, Held&) {
    QueueState* q = programmable(t);
    if (q) (q->*kAddress).value = with_half((q->*kAddress).value, kShift, value);
  }

  static void queue_notify(T& t, uint32_t value, Held&) {
    if (value < t.kicks_.size()) signal_event(t.kicks_[value].ref());
  }

  static uint32_t interrupt_status(const T& t) { return t.interrupt_status_.load(); }

  static void interrupt_ack(T& t, uint32_t value, Held&) { t.interrupt_status_.fetch_and(~value); }

  static uint32_t read_status(const T& t) { return t.status_; }

  static void write_status(T& t, uint32_t value, Held& held) { t.write_status(value, held); }

  static uint32_t config_generation(const T& t) { return t.config_generation_; }

 private:
  static uint64_t with_half(uint64_t whole, unsigned shift, uint32_t half) {
    return (whole & ~(uint64_t{0xffff'ffff} << shift)) | uint64_t{half} << shift;
  }

  static const QueueState* selected(const T& t) {
    return t.queue_sel_ < t.kicks_.size() ? &t.programmed_[t.queue_sel_] : nullptr;
  }

  /// The selected queue, while the driver may set it up: before it is ready (4.2.2.2).
  static QueueState* programmable(T& t) {
    const bool may = selected(t) && !selected(t)->ready && !t.active_;
    return may ? &t.programmed_[t.queue_sel_] : nullptr;
  }
};

// Virtio 1.2, table 4.1, "MMIO Device Register Layout". QueueReset (0x0c0) belongs to a feature
// that is not offered. There is no shared memory: its length and base read as -1.
// clang-format off
const MmioTransport::Register MmioTransport::kRegisters[] = {
    // offset, name,             locked, read,                      write
    {0x000, "MagicValue",        false, H::constant<kMmioMagic>,   nullptr},
    {0x004, "Version",           false, H::constant<kMmioVersion>, nullptr},
    {0x008, "DeviceID",          false, H::device_id,              nullptr},
    {0x00c, "VendorID",          false, H::constant<kMmioVendor>,  nullptr},
    {0x010, "DeviceFeatures",    true,  H::device_features,        nullptr},
    {0x014, "DeviceFeaturesSel", true,  nullptr,                   H::select_device_features},
    {0x020, "DriverFeatures",    true,  nullptr,                   H::write_driver_features},
    {0x024, "DriverFeaturesSel", true,  nullptr,                   H::select_driver_features},
    {0x030, "QueueSel",          true,  nullptr,                   H::select_queue},
    {0x034, "QueueNumMax",       true,  H::queue_num_max,          nullptr},
    {0x038, "QueueNum",          true,  nullptr,                   H::write_queue_num},
    {0x044, "QueueReady",        true,  H::queue_ready,            H::write_queue_ready},
    {0x050, "QueueNotify",       false, nullptr,                   H::queue_notify},
    {0x060, "InterruptStatus",   false, H::interrupt_status,       nullptr},
    {0x064, "InterruptACK",      false, nullptr,                   H::interrupt_ack},
    {0x070, "Status",            true,  H::read_status,            H::write_status},
    {0x080, "QueueDescLow",      true,  nullptr,                   H::address<&Q::descriptors, 0>},
    {0x084, "QueueDescHigh",     true,  nullptr,                   H::address<&Q::descriptors, 32>},
    {0x090, "QueueDriverLow",    true,  nullptr,                   H::address<&Q::driver_area, 0>},
    {0x094, "QueueDriverHigh",   true,  nullptr,                   H::address<&Q::driver_area, 32>},
    {0x0a0, "QueueDeviceLow",    true,  nullptr,                   H::address<&Q::device_area, 0>},
    {0x0a4, "QueueDeviceHigh",   true,  nullptr,                   H::address<&Q::device_area, 32>},
    {0x0ac, "SHMSel",            false, nullptr,                   nullptr},
    {0x0b0, "SHMLenLow",         false, H::constant<0xffff'ffff>,  nullptr},
    {0x0b4, "SHMLenHigh",        false, H::constant<0xffff'ffff>,  nullptr},
    {0x0b8, "SHMBaseLow",        false, H::constant<0xffff'ffff>,  nullptr},
    {0x0bc, "SHMBaseHigh",       false, H::constant<0xffff'ffff>,  nullptr},
    {0x0fc, "ConfigGeneration",  true,  H::config_generation,      nullptr},
};
// clang-format on

const MmioTransport::Register* MmioTransport::find_register(uint64_t offset) {
  for (const Register& row : kRegisters) {
    if (row.offset == offset) return &row;
  }
  return nullptr;
}

uint32_t MmioTransport::read_register(uint64_t offset) {
  const Register* row = find_register(offset);
  if (row == nullptr || row->read == nullptr) return 0;
  Held held(parts_.lock, std::defer_lock);
  if (row->locked) held.lock();
  return row->read(*this);
}

void MmioTransport::write_register(uint64_t offset, uint32_t value) {
  const Register* row = find_register(offset);
  if (row == nullptr || row->write == nullptr) return;
  Held held(parts_.lock, std::defer_lock);
  if (row->locked) held.lock();
  // Another vCPU is resetting the device and waits, without the lock, for it to be idle.
  if (row->locked && resetting_) return;
  row->write(*this, value, held);
}

}  // namespace mayfly::virtio
