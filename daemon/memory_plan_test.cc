// SPDX-License-Identifier: Apache-2.0
#include "daemon/memory_plan.h"

#include <doctest/doctest.h>

namespace mayfly::daemon {
namespace {

using snapshot::WorkingSet;

constexpr uint64_t kMiB = uint64_t{1} << 20;
constexpr uint32_t kPages = 512;

// Chunk 0: 100 pages read. 1: 200 read, 50 written. 2: 10 written. 4 and 5: all written.
const WorkingSet kTouched = {.memory_bytes = 64 * kMiB,
                             .runs = {{4 * kPages, 2 * kPages, true},
                                      {0, 100, false},
                                      {kPages, 200, false},
                                      {2 * kPages - 50, 60, true}}};

using Runs = std::vector<ChunkRun>;

TEST_CASE("what is copied follows the policy and the costs") {
  const auto plan = [](MemoryPolicy policy, uint32_t faults) {
    return plan_copies(kTouched, policy, {.faults_of_copy = faults});
  };
  CHECK_EQ(plan(MemoryPolicy::kLazy, 1), Runs{});
  CHECK_EQ(plan(MemoryPolicy::kBalanced, 40), Runs{{1, 1}, {4, 2}});
  CHECK_EQ(plan(MemoryPolicy::kBalanced, 51), Runs{{4, 2}});
  CHECK_EQ(plan(MemoryPolicy::kBalanced, 10), Runs{{1, 2}, {4, 2}});
  CHECK_EQ(plan(MemoryPolicy::kBalanced, 513), Runs{});
  CHECK_EQ(plan(MemoryPolicy::kLatency, 40), Runs{{0, 2}, {4, 2}});
  CHECK_EQ(plan(MemoryPolicy::kLatency, 101), Runs{{1, 1}, {4, 2}});
  CHECK_EQ(plan(MemoryPolicy::kLatency, 0), Runs{{0, 3}, {4, 2}});
}

TEST_CASE("a huge page that is only read is mapped, and one that is written is copied") {
  const auto plan =
      plan_copies(kTouched, MemoryPolicy::kLatency,
                  {.faults_of_copy = 40, .huge_chunks = {true, true, false, false, true}});
  CHECK_EQ(plan, Runs{{1, 1}, {4, 2}});
}

TEST_CASE("of too many runs those with the most faults are copied") {
  WorkingSet scattered{.memory_bytes = 16384 * kMiB, .runs = {}};
  for (uint32_t chunk = 0; chunk < 3000; chunk += 2) {
    scattered.runs.push_back({chunk * kPages, chunk < 952 ? 50u : 60u, true});
  }
  const Runs plan = plan_copies(scattered, MemoryPolicy::kBalanced, {.faults_of_copy = 40});
  CHECK_EQ(plan.size(), kMaxCopiedRuns);
  CHECK_EQ(plan.front(), ChunkRun{952, 1});
  CHECK_EQ(plan.back(), ChunkRun{2998, 1});
}

TEST_CASE("nothing known: nothing copied; a set's plans are its policies'") {
  for (const MemoryPolicy policy :
       {MemoryPolicy::kLazy, MemoryPolicy::kBalanced, MemoryPolicy::kLatency}) {
    CHECK(MemoryPlans().of(policy).empty());
    CHECK_EQ(MemoryPlans(kTouched, {.faults_of_copy = 40}).of(policy),
             plan_copies(kTouched, policy, {.faults_of_copy = 40}));
  }
  CHECK_EQ(bytes_of(Runs{{1, 1}, {4, 2}}), 6 * kMiB);
}

}  // namespace
}  // namespace mayfly::daemon
