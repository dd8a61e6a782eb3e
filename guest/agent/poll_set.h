// SPDX-License-Identifier: Apache-2.0
//
// The descriptors one round of the agent's loop waits for. Built anew each round: what a session
// does not want to hear about (because a buffer is full) is simply absent, and nothing can be
// stale. The number of descriptors is bounded by the service's session limit.
#pragma once

#include "base/fd.h"

#include <cstddef>
#include <cstdint>
#include <vector>

#include <poll.h>

namespace mayfly::guest {

/// "Never", as a deadline on the CLOCK_MONOTONIC scale.
inline constexpr uint64_t kNever = UINT64_MAX;

class PollSet {
 public:
  using Slot = size_t;
  static constexpr Slot kNone = SIZE_MAX;

  void clear() { entries_.clear(); }
  /// `events` may be 0: only errors and hang-ups are then reported.
  Slot add(FdRef fd, short events) {
    entries_.push_back({fd.number(), events, 0});
    return entries_.size() - 1;
  }
  /// What happened; 0 for kNone.
  short events(Slot slot) const { return slot == kNone ? short{0} : entries_[slot].revents; }
  /// Waits until something happens or CLOCK_MONOTONIC reaches `deadline_ns`.
  Result<> wait(uint64_t deadline_ns);

 private:
  std::vector<pollfd> entries_;
};

}  // namespace mayfly::guest
