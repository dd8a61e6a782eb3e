// SPDX-License-Identifier: Apache-2.0
//
// A monitor's userfaultfd: page faults of its address space are read from it, and pages are put
// there. The descriptor came from the monitor and is hostile: it is made sure that it is one, and
// whatever the monitor has done with it can hurt that monitor alone.
//
// One thread at a time, but for what says otherwise.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace mayfly::daemon {

class Userfault {
 public:
  /// Begins with it. kUnavailable USERFAULT where it is none, or has been begun with already.
  static Result<Userfault> adopt(Fd fd);

  FdRef fd() const { return fd_.ref(); }

  /// From now on pages of this range that are missing are faults. Ends are whole pages.
  Result<> watch(uint64_t address, uint64_t size_bytes);
  /// No more: what is missing is zero again. Whoever waits there goes on.
  Result<> unwatch(uint64_t address, uint64_t size_bytes);
  /// Whoever waits there looks again.
  Result<> wake(uint64_t address, uint64_t size_bytes);
  /// Puts whole pages there, at once or not at all each, and wakes who waits; one that is there
  /// already stays as it is. kCancelled VM_GONE where the address space is.
  Result<> fill(uint64_t address, std::span<const std::byte> pages);

  /// Addresses that are waited for, as many as there are and fit; never blocks.
  Result<size_t> read_faults(std::span<uint64_t> addresses);

 private:
  explicit Userfault(Fd fd) : fd_(std::move(fd)) {}

  Fd fd_;
};

}  // namespace mayfly::daemon
