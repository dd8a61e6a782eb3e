// SPDX-License-Identifier: Apache-2.0
//
// The guest's IOAPIC (Intel 82093AA datasheet), in the monitor because the interrupt chip is split:
// the local APICs are the kernel's. A device's interrupt becomes the message its redirection entry
// describes and goes to KVM with KVM_SIGNAL_MSI. That is one system call, as an irqfd's write would
// be, and needs no routing table: on Linux 6.18 each of the guest's changes to an entry would make
// KVM wait for readers of that table.
//
// Devices are edge-triggered (the DSDT says so). A level-triggered entry is delivered as an edge.
//
// Threads: raise() from any thread; registers from vCPU threads. One short lock.
#pragma once

#include "vmm/bus/bus.h"
#include "vmm/kvm/kvm_sys.h"
#include "vmm/machine/ioapic_state.h"

#include <atomic>
#include <cstdint>
#include <mutex>

namespace mayfly {

class Ioapic final : public BusDevice {
 public:
  static constexpr uint32_t kMaxPins = kvm::kIoapicPins;

  using State = IoapicState;
  static_assert(State::kMaxPins == kMaxPins);

  /// Where messages go; KVM in the monitor.
  class MessageSink {
   public:
    virtual void signal_msi(uint64_t address, uint32_t data) = 0;

   protected:
    ~MessageSink() = default;
  };

  /// `sink` outlives the IOAPIC. `pins`, at most kMaxPins, is what the guest sees: Linux resets
  /// each pin with a dozen accesses, every one an exit, so there are no more than devices need.
  Ioapic(MessageSink& sink, uint32_t pins);

  /// Sends pin `gsi`'s message now, or keeps it until the guest unmasks the pin.
  void raise(uint32_t gsi);

  void read(uint64_t offset, std::span<std::byte> data) override;
  void write(uint64_t offset, std::span<const std::byte> data) override;

  State save() const;
  void restore(const State& state);

  /// Messages sent since the start.
  uint64_t sent() const { return sent_.load(std::memory_order_relaxed); }

 private:
  uint32_t read_register() const;
  void write_register(uint32_t value);
  void send(uint64_t entry);

  MessageSink& sink_;
  const uint32_t pins_;
  mutable std::mutex lock_;
  State state_;  // guarded by lock_
  std::atomic<uint64_t> sent_ = 0;
};

}  // namespace mayfly
