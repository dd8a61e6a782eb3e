// SPDX-License-Identifier: Apache-2.0
//
// How a transport interrupts the guest: one pin of the interrupt controller, edge-triggered.
#pragma once

namespace mayfly::virtio {

class InterruptLine {
 public:
  /// One interrupt. Any thread, with or without the device lock; does not block.
  virtual void raise() = 0;

 protected:
  ~InterruptLine() = default;
};

}  // namespace mayfly::virtio
