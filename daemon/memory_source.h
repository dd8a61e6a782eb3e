// SPDX-License-Identifier: Apache-2.0
//
// Where the memory of a VM comes from that starts before its memory is there (docs/lazy-memory.md).
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/call.h"
#include "daemon/control_codec.h"
#include "daemon/userfault_sys.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace mayfly::daemon {

/// A VM's RAM as its monitor has mapped it: every page is missing, and nothing is watched yet.
struct MissingMemory {
  Userfault userfault;
  /// As the monitor says; check_regions() has seen to all but the addresses.
  std::vector<MonitorRegion> regions;
  /// A memfd; borrowed for begin().
  FdRef file;
  uint64_t size_bytes = 0;
};

/// How far a memory is.
struct FillProgress {
  uint64_t filled_bytes = 0;
  /// What the source has; the rest of RAM is zero and never missing.
  uint64_t source_bytes = 0;
  /// Page faults that were told, and how many pieces of memory were filled for one.
  uint64_t fault_count = 0;
  uint64_t filled_for_fault_count = 0;
};

/// A memory being filled. Its destructor ends that and waits until the EndHook has returned; it
/// must not be called by the hook. Any thread.
class MemoryFill {
 public:
  virtual ~MemoryFill() = default;
  /// Somebody waits for all of it.
  virtual void hurry() = 0;
  /// The VM has ended. Does not wait.
  virtual void stop() = 0;
  virtual FillProgress progress() const = 0;
};

class MemorySource {
 public:
  /// Called once, on a thread of the source's: nothing is missing any more, or why it ever will be.
  /// kCancelled VM_GONE says nothing but that.
  using EndHook = std::move_only_function<void(Result<>)>;

  virtual ~MemorySource() = default;
  /// Begins to fill it; whatever is touched from now on comes. Once.
  virtual Result<std::unique_ptr<MemoryFill>> begin(MissingMemory memory, EndHook ended,
                                                    const Call& call) = 0;
};

/// What a monitor says of its memory covers the whole of it, in order and without gaps, in pieces
/// whose ends are those of chunks. kUnavailable MONITOR_REPLY.
Result<> check_regions(const std::vector<MonitorRegion>& regions, uint64_t size_bytes);

}  // namespace mayfly::daemon
