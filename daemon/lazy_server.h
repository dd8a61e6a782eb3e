// SPDX-License-Identifier: Apache-2.0
//
// Memories of many VMs out of their snapshots, as they are touched and in the background
// (docs/lazy-memory.md). A few threads, each a poll loop over the VMs it was given: a fault has its
// whole chunk of 2 MiB read, checked and put in place at once, before anything of the background,
// which takes no more than half of a thread's time unless somebody waits for it. Threads begin with
// the first VM.
#pragma once

#include "base/error.h"
#include "daemon/memory_source.h"
#include "snapshot/chain.h"

#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace mayfly::daemon {

class LazyWorker;

class LazyServer {
 public:
  explicit LazyServer(size_t max_threads);
  /// No MemoryFill of it is left.
  ~LazyServer();

  /// The memory of `chain`, which is no STATE_ONLY. The background goes by the working set of the
  /// newest of them, where there is one.
  std::unique_ptr<MemorySource> source(snapshot::Chain chain);

 private:
  friend class ChainSource;
  Result<LazyWorker*> pick();

  const size_t max_threads_;
  std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<std::unique_ptr<LazyWorker>> workers_;
  size_t next_ = 0;
};

}  // namespace mayfly::daemon
