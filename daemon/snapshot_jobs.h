// SPDX-License-Identifier: Apache-2.0
//
// The CreateSnapshots that are under way: how far each is, which the event log tells, and whether
// somebody wants it to end. A job is made, used and ended by the thread that serves the call;
// cancel() comes from any other.
#pragma once

#include "base/error.h"
#include "daemon/call.h"
#include "daemon/event_log.h"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

namespace mayfly::daemon {

class SnapshotJobs;

class SnapshotJob {
 public:
  /// Tells that it has started. `jobs` outlives it.
  SnapshotJob(SnapshotJobs& jobs, std::string vm_id, std::string incarnation,
              std::string snapshot_id, uint64_t total_bytes);
  /// One that was not ended is told of as failed.
  ~SnapshotJob();
  SnapshotJob(const SnapshotJob&) = delete;
  SnapshotJob& operator=(const SnapshotJob&) = delete;

  /// The same caller, which a CancelSnapshot makes give up, too. Borrows both.
  Call call(const Call& call) const;

  /// The memory up to here is written: told at most every kInterval, and for each hundredth once.
  void reached(uint64_t done_bytes);
  /// All of the memory is; it is being made durable.
  void writes_memory() { tell(SnapshotPhase::kMemory); }
  void syncs();
  /// Right before the snapshot is put in place: fails where it was cancelled, and from then on it
  /// cannot be any more.
  Result<> commits();

  /// Once nothing is left in the store where it has failed. The error to answer with: its own, or
  /// SNAPSHOT_CANCELLED.
  void succeeded() { end(SnapshotPhase::kFinished, nullptr); }
  Error failed(Error error);

  static constexpr std::chrono::milliseconds kInterval{100};

 private:
  friend class SnapshotJobs;
  void tell(SnapshotPhase phase, const Error* error = nullptr);
  void end(SnapshotPhase phase, const Error* error);

  SnapshotJobs& jobs_;
  const std::string vm_id_;
  const std::string incarnation_;
  const std::string snapshot_id_;
  const uint64_t total_bytes_;
  std::atomic<bool> cancelled_ = false;
  // Guarded by the mutex of jobs_.
  bool commits_ = false;
  // Of the call's thread alone.
  bool ended_ = false;
  uint64_t done_bytes_ = 0;
  uint64_t told_bytes_ = 0;
  SteadyTime told_at_ = {};
};

class SnapshotJobs {
 public:
  /// `events` outlives it.
  explicit SnapshotJobs(EventLog& events) : events_(events) {}

  /// Ends the jobs of this snapshot, of this VM, or, where both are given, of both; returns once
  /// they have ended: the ids of the snapshots that will not be. NOT_FOUND SNAPSHOT_NOT_UNDER_WAY
  /// where there is none, FAILED_PRECONDITION SNAPSHOT_COMMITTED where it comes too late for all.
  Result<std::vector<std::string>> cancel(const std::string& snapshot_id, const std::string& vm_id,
                                          const Call& call);

 private:
  friend class SnapshotJob;
  /// A cancel() and the jobs that it waits for.
  struct Waiter {
    std::vector<const SnapshotJob*> jobs;
    std::vector<std::string> cancelled;
  };

  EventLog& events_;
  std::mutex mutex_;
  std::condition_variable ended_;
  // Guarded by mutex_; what they point to lives on the stacks of the calls that are under way.
  std::vector<SnapshotJob*> jobs_;
  std::vector<Waiter*> waiters_;
};

}  // namespace mayfly::daemon
