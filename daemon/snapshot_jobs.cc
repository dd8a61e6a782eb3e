// SPDX-License-Identifier: Apache-2.0
#include "daemon/snapshot_jobs.h"

#include <algorithm>
#include <utility>

namespace mayfly::daemon {

SnapshotJob::SnapshotJob(SnapshotJobs& jobs, std::string vm_id, std::string incarnation,
                         std::string snapshot_id, uint64_t total_bytes)
    : jobs_(jobs),
      vm_id_(std::move(vm_id)),
      incarnation_(std::move(incarnation)),
      snapshot_id_(std::move(snapshot_id)),
      total_bytes_(total_bytes) {
  {
    std::lock_guard lock(jobs_.mutex_);
    jobs_.jobs_.push_back(this);
  }
  tell(SnapshotPhase::kStarted);
}

SnapshotJob::~SnapshotJob() {
  if (!ended_) end(SnapshotPhase::kFailed, nullptr);
}

Call SnapshotJob::call(const Call& call) const {
  Call both = call;
  both.is_cancelled = [this, &call] {
    return cancelled_ || (call.is_cancelled && call.is_cancelled());
  };
  return both;
}

void SnapshotJob::reached(uint64_t done_bytes) {
  done_bytes_ = std::min(done_bytes, total_bytes_);
  if (done_bytes_ - std::min(done_bytes_, told_bytes_) < total_bytes_ / 100) return;
  if (std::chrono::steady_clock::now() - told_at_ < kInterval) return;
  tell(SnapshotPhase::kMemory);
}

void SnapshotJob::syncs() {
  done_bytes_ = total_bytes_;
  tell(SnapshotPhase::kSync);
}

Result<> SnapshotJob::commits() {
  std::lock_guard lock(jobs_.mutex_);
  if (cancelled_) return fail({Code::kCancelled, "CANCELLED"}, "cancelled before the commit");
  commits_ = true;
  return {};
}

Error SnapshotJob::failed(Error error) {
  const bool gave_up = error.code() == Code::kCancelled;
  if (gave_up && cancelled_) {
    error = fail({Code::kCancelled, "SNAPSHOT_CANCELLED"},
                 "snapshot %s: was cancelled; nothing of it is left", snapshot_id_.c_str())
                .error();
  }
  end(gave_up ? SnapshotPhase::kCancelled : SnapshotPhase::kFailed, &error);
  return error;
}

void SnapshotJob::tell(SnapshotPhase phase, const Error* error) {
  told_at_ = std::chrono::steady_clock::now();
  told_bytes_ = done_bytes_;
  SnapshotProgress what{.snapshot_id = snapshot_id_,
                        .phase = phase,
                        .done_bytes = done_bytes_,
                        .total_bytes = total_bytes_,
                        .error = std::nullopt};
  if (error != nullptr) what.error = *error;
  jobs_.events_.append({.sequence = 0,
                        .unix_us = 0,
                        .vm_id = vm_id_,
                        .incarnation = incarnation_,
                        .what = std::move(what)});
}

void SnapshotJob::end(SnapshotPhase phase, const Error* error) {
  ended_ = true;
  tell(phase, error);
  {
    std::lock_guard lock(jobs_.mutex_);
    std::erase(jobs_.jobs_, this);
    for (SnapshotJobs::Waiter* waiter : jobs_.waiters_) {
      if (std::erase(waiter->jobs, this) > 0 && phase == SnapshotPhase::kCancelled)
        waiter->cancelled.push_back(snapshot_id_);
    }
  }
  jobs_.ended_.notify_all();
}

Result<std::vector<std::string>> SnapshotJobs::cancel(const std::string& snapshot_id,
                                                      const std::string& vm_id, const Call& call) {
  if (snapshot_id.empty() && vm_id.empty()) {
    return fail({Code::kInvalidArgument, "ID_MISSING"},
                "snapshot_id, vm_id: both are empty; one of them says what to cancel");
  }
  std::unique_lock lock(mutex_);
  Waiter waiter;
  for (SnapshotJob* job : jobs_) {
    if (!snapshot_id.empty() && job->snapshot_id_ != snapshot_id) continue;
    if (!vm_id.empty() && job->vm_id_ != vm_id) continue;
    if (!job->commits_) job->cancelled_ = true;
    waiter.jobs.push_back(job);
  }
  if (waiter.jobs.empty()) {
    return fail({Code::kNotFound, "SNAPSHOT_NOT_UNDER_WAY"},
                "no snapshot of that id or of that VM is being made");
  }
  waiters_.push_back(&waiter);
  const auto waited = call.wait(lock, ended_, "waiting for the snapshot's end",
                                [&] { return waiter.jobs.empty(); });
  std::erase(waiters_, &waiter);
  TRY(waited);
  if (!waiter.cancelled.empty()) return std::move(waiter.cancelled);
  return fail({Code::kFailedPrecondition, "SNAPSHOT_COMMITTED"},
              "cancel: came too late, the snapshot is in place or has failed already");
}

}  // namespace mayfly::daemon
