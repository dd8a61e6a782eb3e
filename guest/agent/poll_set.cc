// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/poll_set.h"

#include "base/clock.h"

#include <cerrno>
#include <ctime>

namespace mayfly::guest {

Result<> PollSet::wait(uint64_t deadline_ns) {
  timespec timeout{};
  const uint64_t now = monotonic_ns();
  if (deadline_ns > now && deadline_ns != kNever) {
    timeout.tv_sec = static_cast<time_t>((deadline_ns - now) / 1'000'000'000);
    timeout.tv_nsec = static_cast<long>((deadline_ns - now) % 1'000'000'000);
  }
  const timespec* bound = deadline_ns == kNever ? nullptr : &timeout;
  if (::ppoll(entries_.data(), entries_.size(), bound, nullptr) < 0) {
    for (pollfd& entry : entries_) entry.revents = 0;
    if (errno != EINTR) return fail_errno({Code::kInternal, "POLL"}, errno, "poll");
  }
  return {};
}

}  // namespace mayfly::guest
