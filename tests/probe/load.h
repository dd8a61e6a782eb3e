// SPDX-License-Identifier: Apache-2.0
//
// What drives a device at full speed, and counts: one run of requests, of which several are in
// flight, with EVENT_IDX as Linux uses it. Virtio 1.2, 2.7.7 and 2.7.10.
#pragma once

#include "tests/probe/cpu_sys.h"
#include "tests/probe/probe.h"
#include "tests/probe/virtio.h"

namespace probe {

/// One run, from its making to report().
class Load {
 public:
  Load() = default;
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  /// Kicks `queue` if its device wants to hear of what was published since this was last asked.
  void kick(const Device& device, uint32_t index, Queue& queue) {
    if (!queue.wants_kick(device.features())) return;
    device.kick(index);
    ++kicks_;
  }
  /// The device has returned something in `queue`.
  void progress(Queue& queue) {
    idle_ = 0;
    queue.put_off_interrupts();
  }
  /// It has not; fails the test when that has lasted some seconds.
  void idle() {
    relax();
    require(++idle_ < kPatientPolls, "a request got lost");
  }
  /// Says what came of it.
  void report(uint64_t requests, uint64_t bytes) const {
    Line() << "load requests=" << requests << " bytes=" << bytes << " kicks=" << kicks_
           << " cycles=" << cycles() - begin_;
  }

 private:
  static constexpr unsigned kPatientPolls = 300'000'000;

  uint64_t begin_ = cycles();
  uint64_t kicks_ = 0;
  unsigned idle_ = 0;
};

}  // namespace probe
