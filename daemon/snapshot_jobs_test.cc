// SPDX-License-Identifier: Apache-2.0
#include "daemon/snapshot_jobs.h"

#include <doctest/doctest.h>

#include <thread>

using namespace mayfly;
using namespace mayfly::daemon;

namespace {

constexpr uint64_t kMiB = 1 << 20;

Call soon() { return Call::within(std::chrono::seconds(20)); }

/// What was told since the last time.
std::vector<SnapshotProgress> told(const EventLog& log, EventCursor& cursor) {
  std::vector<SnapshotProgress> all;
  while (auto event = log.next(cursor, Call::within(std::chrono::milliseconds(0)))) {
    CHECK(event->vm_id == "a");
    CHECK(event->incarnation == "i");
    all.push_back(std::get<SnapshotProgress>(event->what));
  }
  return all;
}

Error gave_up() { return fail({Code::kCancelled, "CANCELLED"}, "gave up").error(); }

}  // namespace

TEST_CASE("a job tells of its start, its way at a bounded rate, and its end") {
  EventLog log("epoch");
  EventCursor cursor = log.from_now();
  SnapshotJobs jobs(log);
  SnapshotJob job(jobs, "a", "i", "s", 100 * kMiB);
  job.writes_memory();
  for (uint64_t at = 0; at < 50 * kMiB; at += 4096) job.reached(at);
  std::this_thread::sleep_for(SnapshotJob::kInterval);
  job.reached(50 * kMiB);
  std::this_thread::sleep_for(SnapshotJob::kInterval);
  job.reached(50 * kMiB + 4096);  // Less than a hundredth further.
  job.syncs();
  CHECK(job.commits());
  job.succeeded();
  const auto events = told(log, cursor);
  // The loop above may itself take longer than the interval.
  REQUIRE(events.size() >= 5);
  CHECK(events.front().phase == SnapshotPhase::kStarted);
  CHECK(events[1].phase == SnapshotPhase::kMemory);
  CHECK(events[events.size() - 3].done_bytes == 50 * kMiB);
  CHECK(events[events.size() - 2].phase == SnapshotPhase::kSync);
  CHECK(events.back().phase == SnapshotPhase::kFinished);
  CHECK(events.back().done_bytes == events.back().total_bytes);
}

TEST_CASE("a job that ends without a word has failed") {
  EventLog log("epoch");
  EventCursor cursor = log.from_now();
  SnapshotJobs jobs(log);
  {
    const SnapshotJob job(jobs, "a", "i", "s", kMiB);
  }
  CHECK(told(log, cursor).back().phase == SnapshotPhase::kFailed);
  CHECK(jobs.cancel("s", "", soon()).error().reason() == "SNAPSHOT_NOT_UNDER_WAY");
}

TEST_CASE("cancelling waits for the jobs that it means, and for no others") {
  EventLog log("epoch");
  EventCursor cursor = log.from_now();
  SnapshotJobs jobs(log);
  SnapshotJob other(jobs, "a", "i", "other", kMiB);
  SnapshotJob job(jobs, "a", "i", "s", kMiB);
  const Call unbounded;
  const Call call = job.call(unbounded);
  CHECK(call.check("this"));
  Result<std::vector<std::string>> answer;
  std::thread canceller([&] { answer = jobs.cancel("s", "a", soon()); });
  while (call.check("this")) std::this_thread::yield();
  CHECK(other.call(unbounded).check("that"));
  CHECK_FALSE(job.commits());
  CHECK(job.failed(gave_up()).reason() == "SNAPSHOT_CANCELLED");
  canceller.join();
  REQUIRE(answer);
  CHECK(*answer == std::vector<std::string>{"s"});
  const auto events = told(log, cursor);
  CHECK(events.back().phase == SnapshotPhase::kCancelled);
  CHECK(events.back().error->reason() == "SNAPSHOT_CANCELLED");
  CHECK(jobs.cancel("s", "", soon()).error().code() == Code::kNotFound);
  CHECK(jobs.cancel("", "b", soon()).error().code() == Code::kNotFound);
  CHECK(jobs.cancel("", "", soon()).error().reason() == "ID_MISSING");
}

TEST_CASE("a cancel that comes too late changes nothing and says so") {
  EventLog log("epoch");
  SnapshotJobs jobs(log);
  SnapshotJob job(jobs, "a", "i", "s", kMiB);
  CHECK(job.commits());
  const auto given_up = jobs.cancel("s", "", Call::within(std::chrono::milliseconds(20)));
  CHECK(given_up.error().code() == Code::kDeadlineExceeded);
  const Call unbounded;
  CHECK(job.call(unbounded).check("this"));
  Result<std::vector<std::string>> answer;
  std::thread canceller([&] { answer = jobs.cancel("", "a", soon()); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  job.succeeded();
  canceller.join();
  REQUIRE_FALSE(answer);
  // Or it came when there was nothing any more.
  CHECK((answer.error().reason() == "SNAPSHOT_COMMITTED" ||
         answer.error().reason() == "SNAPSHOT_NOT_UNDER_WAY"));
}

TEST_CASE("a client that goes away cancels as well, and is told of as itself") {
  EventLog log("epoch");
  EventCursor cursor = log.from_now();
  SnapshotJobs jobs(log);
  SnapshotJob job(jobs, "a", "i", "s", kMiB);
  bool gone = false;
  Call client;
  client.is_cancelled = [&] { return gone; };
  const Call call = job.call(client);
  CHECK(call.check("this"));
  gone = true;
  CHECK_FALSE(call.check("this"));
  CHECK(job.failed(gave_up()).reason() == "CANCELLED");
  CHECK(told(log, cursor).back().phase == SnapshotPhase::kCancelled);
}
