// SPDX-License-Identifier: Apache-2.0
#include "daemon/memory_plan.h"

#include "snapshot/manifest.h"

#include <algorithm>

namespace mayfly::daemon {

namespace {

constexpr uint64_t kPagesOfChunk = kCopiedChunkBytes / snapshot::kPageBytes;

struct TouchedChunk {
  uint32_t number = 0;
  uint32_t touched = 0;
  uint32_t written = 0;
};

/// In order, those that were touched.
std::vector<TouchedChunk> chunks_of(const snapshot::WorkingSet& set) {
  std::vector<TouchedChunk> parts;
  for (const snapshot::TouchedRun& run : set.runs) {
    uint64_t page = run.first_page;
    const uint64_t end = page + run.pages;
    while (page < end) {
      const uint64_t number = page / kPagesOfChunk;
      const uint64_t next = std::min(end, (number + 1) * kPagesOfChunk);
      const auto pages = static_cast<uint32_t>(next - page);
      parts.push_back({static_cast<uint32_t>(number), pages, run.dirtied ? pages : 0});
      page = next;
    }
  }
  std::ranges::sort(parts, {}, &TouchedChunk::number);
  std::vector<TouchedChunk> chunks;
  for (const TouchedChunk& part : parts) {
    if (chunks.empty() || chunks.back().number != part.number) {
      chunks.push_back(part);
    } else {
      chunks.back().touched += part.touched;
      chunks.back().written += part.written;
    }
  }
  return chunks;
}

/// The faults that a copy of it spares.
uint32_t faults_of(const TouchedChunk& chunk, MemoryPolicy policy, bool is_huge) {
  switch (policy) {
    case MemoryPolicy::kUnknown:
    case MemoryPolicy::kLazy:
      return 0;
    case MemoryPolicy::kBalanced:
      return chunk.written;
    case MemoryPolicy::kLatency:
      // One fault maps a huge page, until the first write breaks it up.
      return is_huge && chunk.written == 0 ? 1 : chunk.touched;
  }
  return 0;
}

std::vector<ChunkRun> runs_of(std::vector<uint32_t> numbers) {
  std::ranges::sort(numbers);
  std::vector<ChunkRun> runs;
  for (const uint32_t number : numbers) {
    if (!runs.empty() && runs.back().first + runs.back().count == number) {
      ++runs.back().count;
    } else {
      runs.push_back({.first = number, .count = 1});
    }
  }
  return runs;
}

}  // namespace

std::vector<ChunkRun> plan_copies(const snapshot::WorkingSet& touched, MemoryPolicy policy,
                                  const PlanCosts& costs) {
  struct Candidate {
    uint32_t number;
    uint32_t faults;
  };
  std::vector<Candidate> candidates;
  for (const TouchedChunk& chunk : chunks_of(touched)) {
    const bool is_huge = chunk.number < costs.huge_chunks.size() && costs.huge_chunks[chunk.number];
    const uint32_t faults = faults_of(chunk, policy, is_huge);
    if (faults >= std::max(costs.faults_of_copy, 1u)) candidates.push_back({chunk.number, faults});
  }
  std::ranges::stable_sort(candidates, std::ranges::greater(), &Candidate::faults);
  std::vector<uint32_t> numbers;
  for (const Candidate& candidate : candidates) numbers.push_back(candidate.number);
  std::vector<ChunkRun> runs = runs_of(numbers);
  // Neighbours make one run, so that more chunks than runs may fit; as many as surely do.
  if (runs.size() > kMaxCopiedRuns) {
    numbers.resize(kMaxCopiedRuns);
    runs = runs_of(std::move(numbers));
  }
  return runs;
}

MemoryPlans::MemoryPlans(const snapshot::WorkingSet& touched, const PlanCosts& costs)
    : is_informed_(true) {
  for (const MemoryPolicy policy : {MemoryPolicy::kBalanced, MemoryPolicy::kLatency}) {
    plans_[static_cast<size_t>(policy)] = plan_copies(touched, policy, costs);
  }
}

uint64_t bytes_of(std::span<const ChunkRun> runs) {
  uint64_t chunks = 0;
  for (const ChunkRun& run : runs) chunks += run.count;
  return chunks * kCopiedChunkBytes;
}

}  // namespace mayfly::daemon
