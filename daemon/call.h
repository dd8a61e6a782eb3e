// SPDX-License-Identifier: Apache-2.0
//
// How long a caller is willing to wait, without gRPC: a deadline and a way to ask whether the
// caller has gone. Made per call on the thread that serves it, and borrowed by what it calls.
#pragma once

#include "base/error.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>

namespace mayfly::daemon {

using SteadyTime = std::chrono::steady_clock::time_point;

struct Call {
  SteadyTime deadline = SteadyTime::max();
  /// Null: never.
  std::function<bool()> is_cancelled;

  static Call within(std::chrono::milliseconds timeout) {
    return Call{.deadline = std::chrono::steady_clock::now() + timeout, .is_cancelled = nullptr};
  }

  /// The same caller, waiting no longer than `timeout` from now.
  Call at_most(std::chrono::milliseconds timeout) const {
    Call call = *this;
    call.deadline = std::min(deadline, std::chrono::steady_clock::now() + timeout);
    return call;
  }

  /// Fails with DEADLINE_EXCEEDED or CANCELLED once it is time to give up; `what` is what was
  /// waited for.
  Result<> check(const char* what) const {
    if (is_cancelled && is_cancelled())
      return fail({Code::kCancelled, "CANCELLED"}, "cancelled: %s", what);
    if (std::chrono::steady_clock::now() >= deadline) {
      return fail({Code::kDeadlineExceeded, "DEADLINE_EXCEEDED"}, "the deadline passed: %s", what);
    }
    return {};
  }

  /// Waits on `condition` until `done()`. A caller's going away is noticed within a quarter of a
  /// second: gRPC's synchronous server has no way to wake a waiting handler.
  template <typename Done>
  Result<> wait(std::unique_lock<std::mutex>& lock, std::condition_variable& condition,
                const char* what, Done done) const {
    while (!done()) {
      if (auto ok = check(what); !ok) return ok;
      const SteadyTime slice = std::chrono::steady_clock::now() + std::chrono::milliseconds(250);
      condition.wait_until(lock, is_cancelled ? std::min(deadline, slice) : deadline);
    }
    return {};
  }
};

}  // namespace mayfly::daemon
