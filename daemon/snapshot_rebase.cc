// SPDX-License-Identifier: Apache-2.0
//
// How a chain of diffs is made shorter.
#include "daemon/snapshot_manager.h"

#include <algorithm>
#include <mutex>

namespace mayfly::daemon {

namespace {

/// How many of the newest become one, so that it stands on `onto` alone, or on nothing.
Result<size_t> merge_count(const snapshot::Chain& chain, const RebasePlan& plan) {
  const std::vector<snapshot::Snapshot>& snapshots = chain.snapshots();
  size_t count = snapshots.size();
  if (!plan.onto_id.empty()) {
    const auto stands_on = [&](const snapshot::Snapshot& each) {
      return each.manifest().parent && each.manifest().parent->id == plan.onto_id;
    };
    const auto lowest = std::ranges::find_if(snapshots, stands_on);
    if (lowest == snapshots.end()) {
      return fail({Code::kInvalidArgument, "NOT_IN_CHAIN"},
                  "onto_id: %s does not stand on a snapshot %s", plan.snapshot_id.c_str(),
                  plan.onto_id.c_str());
    }
    count = static_cast<size_t>(lowest - snapshots.begin()) + 1;
  }
  if (count > 1) return count;
  return fail({Code::kFailedPrecondition, "NOTHING_TO_MERGE"}, "rebase %s: it stands on %s already",
              plan.snapshot_id.c_str(), plan.onto_id.empty() ? "no other" : plan.onto_id.c_str());
}

}  // namespace

Result<RebaseOutcome> SnapshotManager::rebase(const RebasePlan& plan, const Call& call) {
  Stopwatch stopwatch;
  TRY(validate_snapshot_id(plan.snapshot_id));
  if (!plan.onto_id.empty()) TRY(validate_snapshot_id(plan.onto_id));
  if (!plan.new_snapshot_id.empty()) TRY(validate_snapshot_id(plan.new_snapshot_id));
  const SnapshotHold hold = store_.hold(plan.snapshot_id);
  (void)TRY(store_.get(plan.snapshot_id));
  const FdRef directory = TRY(store_.directory());
  const auto chain = TRY(snapshot::Chain::open(directory, plan.snapshot_id));
  const size_t count = TRY(merge_count(chain, plan));
  const bool in_place = plan.new_snapshot_id.empty();
  const std::string& id = in_place ? plan.snapshot_id : plan.new_snapshot_id;
  // Told now rather than after all the work; what counts is asked for right before the exchange.
  if (in_place) (void)TRY(store_.lock_to_replace(id));
  auto writer = TRY(snapshot::SnapshotWriter::create(
      {.store = directory,
       .name = id,
       .if_exists = in_place ? snapshot::IfExists::kReplace : snapshot::IfExists::kRefuse}));
  stopwatch.lap("open");
  std::unique_lock<std::mutex> alone;
  TRY(snapshot::merge({.chain = chain,
                       .count = count,
                       .id = id,
                       .created_ns = chain.newest().manifest().created_ns,
                       .go_on = [&] { return call.check("merging"); },
                       .last_word = [&] -> Result<> {
                         TRY(call.check("merging"));
                         if (in_place) alone = TRY(store_.lock_to_replace(id));
                         return {};
                       }},
                      writer));
  RebaseOutcome outcome{.snapshot = {}, .merged_ids = {}, .times = {}};
  if (in_place) {
    const auto merged = TRY(snapshot::Snapshot::open(directory, id));
    const BaseSnapshot old = {.id = id, .memory_digest = chain.newest().index()->digest};
    vms_.rebased(old, merged.index()->digest);
    templates_.rebased(old, merged.index()->digest);
    alone.unlock();
  }
  stopwatch.lap("merge");
  for (const snapshot::Snapshot& each : std::span(chain.snapshots()).first(count)) {
    outcome.merged_ids.push_back(each.manifest().id);
  }
  outcome.snapshot = TRY(store_.get(id));
  outcome.times = stopwatch.times();
  return outcome;
}

}  // namespace mayfly::daemon
