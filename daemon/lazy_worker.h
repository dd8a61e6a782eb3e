// SPDX-License-Identifier: Apache-2.0
//
// One thread of the LazyServer, and the VMs whose memory it fills.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/memory_source.h"
#include "snapshot/chain.h"
#include "snapshot/memory_file.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

namespace mayfly::daemon {

/// One VM's memory. The worker's thread alone uses what is not atomic.
struct LazyJob {
  LazyJob(MissingMemory missing, snapshot::Chain source, MemorySource::EndHook hook);

  /// Begins to watch what the source has, which is all in chunks.
  Result<> watch();
  /// Fills a chunk that is not filled yet, and lets go of it.
  Result<> fill(uint32_t number, snapshot::ChunkLoader& loader);
  /// The chunk that an address is in, or kUnavailable MONITOR_REPLY.
  Result<uint32_t> chunk_at(uint64_t address) const;
  /// The next chunk for the background; all are filled when there is none.
  std::optional<uint32_t> next();
  FillProgress progress() const;
  /// It is over: closes what it no longer needs.
  void drop();

  std::optional<MissingMemory> memory;
  std::optional<snapshot::Chain> chain;
  std::vector<snapshot::MemoryLayer> layers;
  MemorySource::EndHook ended;
  /// Chunks that any layer knows, in the background's order.
  std::vector<uint32_t> order;
  size_t next_in_order = 0;
  /// A bit for each chunk of RAM: nothing is missing there.
  std::vector<bool> filled;
  const uint64_t source_bytes;
  bool is_over = false;

  std::atomic<bool> is_hurried = false;
  std::atomic<bool> is_stopped = false;
  std::atomic<uint64_t> filled_chunks = 0;
  std::atomic<uint64_t> fault_count = 0;
  std::atomic<uint64_t> filled_for_fault_count = 0;

 private:
  struct Place {
    uint64_t address;
    uint64_t size_bytes;
  };
  Place place_of(uint32_t number) const;
};

class LazyWorker {
 public:
  static Result<std::unique_ptr<LazyWorker>> create();
  /// No job is left.
  ~LazyWorker();

  /// Any thread.
  Result<uint64_t> add(std::unique_ptr<LazyJob> job);
  /// Waits while its hook runs.
  void remove(uint64_t id);
  void wake();

 private:
  LazyWorker(Fd epoll, Fd wake) : epoll_(std::move(epoll)), wake_(std::move(wake)) {}
  void run();
  int timeout_ms();
  void serve_faults(LazyJob& job);
  void work_on(LazyJob& job);
  void finish(LazyJob& job, Result<> result);
  /// Runs `body` with the job of that id, which cannot be removed meanwhile; not where there is
  /// none, or it is over.
  template <typename Body>
  void with_job(uint64_t id, Body body);
  uint64_t next_for_background();

  const Fd epoll_;
  const Fd wake_;
  std::mutex mutex_;
  std::condition_variable idle_;
  // Guarded by mutex_; a job is destroyed only while it is not current.
  std::map<uint64_t, std::unique_ptr<LazyJob>> jobs_;
  uint64_t next_id_ = 1;
  uint64_t current_ = 0;
  bool is_stopping_ = false;
  // The thread's own.
  snapshot::ChunkLoader loader_;
  uint64_t last_in_background_ = 0;
  std::chrono::steady_clock::time_point rest_until_;
  std::thread thread_;
};

}  // namespace mayfly::daemon
