// SPDX-License-Identifier: Apache-2.0
//
// Huge pages of 2 MiB as this host gives them, and what pages cost on it. Any thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstdint>
#include <memory>

namespace mayfly::daemon {

/// Measured in a few milliseconds, by this process: a fault of a guest takes the time to leave it
/// on top, so that `faults_of_copy` is rather too many than too few.
struct PageCosts {
  /// A first write to a page of a file that is mapped privately.
  uint64_t fault_ns = 0;
  /// 2 MiB of a file, read into memory that was just mapped.
  uint64_t copy_ns = 0;
  /// Whether who asks for them gets huge pages: for memory of its own, and in memfds.
  bool has_anonymous_huge_pages = false;
  bool has_memfd_huge_pages = false;

  /// So many faults take as long as a copy; from 1 to the 512 pages that there are.
  uint32_t faults_of_copy() const;
};

/// The best of a few tries each, since others use the machine too.
Result<PageCosts> measure_page_costs();

/// Gives chunks of 2 MiB of a memfd, which are still empty, a huge page each where the host does.
class HugeBacking {
 public:
  /// The memfd outlives it, and cannot be sealed meanwhile.
  static Result<HugeBacking> create(FdRef memfd);
  ~HugeBacking();
  HugeBacking(HugeBacking&& other) noexcept;
  HugeBacking(const HugeBacking&) = delete;
  HugeBacking& operator=(const HugeBacking&) = delete;

  /// Whether the chunk is one huge page now. Else it has no more than the smallest that the host
  /// gives.
  Result<bool> back(uint64_t chunk);

 private:
  HugeBacking() = default;
  struct Mapped;
  std::unique_ptr<Mapped> mapped_;
};

}  // namespace mayfly::daemon
