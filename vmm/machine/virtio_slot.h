// SPDX-License-Identifier: Apache-2.0
//
// One virtio device in its place: the device, its mmio window on the bus, its kicks in the loop and
// its pin on the IOAPIC. Slot n sits where boot/layout.h and the DSDT say.
//
// A driver's kick leaves the guest at first (the exit signals the kick's eventfd). After
// kKicksBeforeIoeventfd of them the slot registers an ioeventfd, and kicks stay in the kernel: a VM
// that lives for a few requests never pays for setting one up and tearing it down.
#pragma once

#include "base/error.h"
#include "base/event/loop.h"
#include "base/memory/guest_memory.h"
#include "virtio/device.h"
#include "virtio/transport/interrupt_line.h"
#include "virtio/transport/mmio.h"
#include "vmm/bus/bus.h"
#include "vmm/kvm/kvm_sys.h"
#include "vmm/machine/ioapic.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

namespace mayfly {

class VirtioSlot final : public BusDevice, private LoopClient, private virtio::InterruptLine {
 public:
  static constexpr uint32_t kKicksBeforeIoeventfd = 16;

  /// All of it outlives the slot.
  struct Parts {
    uint32_t index;
    const GuestMemory& memory;
    Loop& loop;
    kvm::Vm& vm;
    Ioapic& ioapic;
    /// The machine is ending: a vCPU that waits for a device to come to rest gives up.
    const std::atomic<bool>& ending;
  };

  /// On the loop thread, under the device lock.
  static Result<std::unique_ptr<VirtioSlot>> create(const Parts& parts,
                                                    std::unique_ptr<virtio::Device> device);

  virtio::Device& device() { return *device_; }
  virtio::MmioTransport& transport() { return *transport_; }

  /// On the loop thread, under the lock: serves every queue as if it had been kicked, so that what
  /// the guest made available before it ended is not lost.
  void serve_all();

  void read(uint64_t offset, std::span<std::byte> data) override;
  void write(uint64_t offset, std::span<const std::byte> data) override;

 private:
  VirtioSlot(const Parts& parts, std::unique_ptr<virtio::Device> device)
      : parts_(parts), device_(std::move(device)) {}
  void on_completion(uint32_t op, int32_t result) override;
  void raise() override;
  void count_kick(std::span<const std::byte> data);

  Parts parts_;
  std::unique_ptr<virtio::Device> device_;
  std::unique_ptr<virtio::MmioTransport> transport_;
  std::array<std::atomic<uint32_t>, virtio::kMaxQueues> kicks_ = {};
};

}  // namespace mayfly
