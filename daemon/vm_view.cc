// SPDX-License-Identifier: Apache-2.0
#include "daemon/vm_view.h"

#include "base/clock.h"

#include <algorithm>
#include <chrono>

namespace mayfly::daemon {

const char* state_name(VmState state) {
  switch (state) {
    case VmState::kCreating:
      return "CREATING";
    case VmState::kCreated:
      return "CREATED";
    case VmState::kRunning:
      return "RUNNING";
    case VmState::kPaused:
      return "PAUSED";
    case VmState::kStopped:
      return "STOPPED";
  }
  return "UNKNOWN";
}

int64_t unix_now_us() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::microseconds>(now).count();
}

Stopwatch::Stopwatch() : start_ns_(monotonic_ns()), last_ns_(start_ns_) {}

void Stopwatch::lap(const char* name) { lap_at(name, monotonic_ns()); }

void Stopwatch::lap_at(const char* name, uint64_t now_ns) {
  // A monitor's times are its own claim: one that runs backwards or ahead is bent back.
  now_ns = std::clamp(now_ns, last_ns_, std::max(last_ns_, monotonic_ns()));
  phases_.push_back({.name = name, .duration_us = (now_ns - last_ns_) / 1000});
  last_ns_ = now_ns;
}

PhaseTimes Stopwatch::times() const {
  return {.phases = phases_, .total_us = (monotonic_ns() - start_ns_) / 1000};
}

}  // namespace mayfly::daemon
