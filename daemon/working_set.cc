// SPDX-License-Identifier: Apache-2.0
//
// How a run becomes its snapshot's working set.
#include "daemon/snapshot_manager.h"
#include "daemon/vm.h"
#include "snapshot/manifest.h"

#include <algorithm>

namespace mayfly::daemon {

namespace {

constexpr auto kAskLimit = std::chrono::seconds(30);

using Bits = std::vector<std::byte>;

bool has(const Bits& bits, uint64_t page) {
  return (bits[page / 8] >> (page % 8) & std::byte{1}) != std::byte{};
}

Result<Bits> read_bits(FdRef file, uint64_t bytes) {
  TRY(seal_memfd(file));
  Bits bits(bytes);
  TRY(pread_exact(file, bits, 0));
  return bits;
}

/// In order of pages: when each was touched first nobody has seen.
Result<TouchedMemory> working_set_of(const Bits& touched, const Bits& written,
                                     uint64_t memory_bytes) {
  TouchedMemory memory{.set = {.memory_bytes = memory_bytes, .runs = {}}};
  std::vector<snapshot::TouchedRun>& runs = memory.set.runs;
  for (uint64_t page = 0; page < memory_bytes / snapshot::kPageBytes; ++page) {
    if (!has(touched, page)) continue;
    const bool dirtied = has(written, page);
    memory.touched_bytes += snapshot::kPageBytes;
    if (dirtied) memory.written_bytes += snapshot::kPageBytes;
    if (!runs.empty() && runs.back().first_page + runs.back().pages == page &&
        runs.back().dirtied == dirtied) {
      ++runs.back().pages;
      continue;
    }
    if (runs.size() == snapshot::kMaxTouchedRuns) {
      return fail({Code::kResourceExhausted, "WORKING_SET"},
                  "the working set is of more than %zu runs of pages, which is the limit",
                  snapshot::kMaxTouchedRuns);
    }
    runs.push_back({.first_page = static_cast<uint32_t>(page), .pages = 1, .dirtied = dirtied});
  }
  return memory;
}

}  // namespace

Result<TouchedMemory> Vm::touched_memory(const Call& call) {
  TRY(wait_created(call));
  if (!spec_.record_working_set) {
    return fail({Code::kFailedPrecondition, "NOT_RECORDED"},
                "record %s: it was not restored with record_working_set", identity_.id.c_str());
  }
  {
    std::unique_lock lock(mutex_);
    TRY(claim(lock, "record", call));
    if (state_ != VmState::kRunning && state_ != VmState::kPaused) {
      return fail({Code::kFailedPrecondition, "VM_STATE"},
                  "record %s: the VM is %s, it must be RUNNING or PAUSED", identity_.id.c_str(),
                  state_name(state_));
    }
    busy_ = true;
  }
  const auto touched = ask_touched(call);
  release();
  return touched;
}

Result<TouchedMemory> Vm::ask_touched(const Call& call) {
  const uint64_t memory_bytes = spec_.memory_mib << 20;
  const uint64_t bytes = (memory_bytes / snapshot::kPageBytes + 7) / 8;
  const Fd touched = TRY(Fd::memfd("mayfly-touched", bytes));
  const Fd written = TRY(Fd::memfd("mayfly-written", bytes));
  const ControlReply reply = TRY(body_->monitor().call(
      [&](uint64_t id) { return encode_get_touched_pages(id, touched.ref(), written.ref()); },
      call.at_most(kAskLimit), "record"));
  TouchedMemory memory = TRY(working_set_of(TRY(read_bits(touched.ref(), bytes)),
                                            TRY(read_bits(written.ref(), bytes)), memory_bytes));
  memory.is_exact = reply.touched_pages && reply.touched_pages->is_exact;
  return memory;
}

Result<PageCosts> SnapshotManager::page_costs() {
  std::lock_guard lock(mutex_);
  if (!costs_) costs_ = TRY(measure_page_costs());
  return *costs_;
}

Result<RecordOutcome> SnapshotManager::record_working_set(const std::string& vm_id,
                                                          const Call& call) {
  Stopwatch stopwatch;
  const VmPin vm = TRY(vms_.find(vm_id));
  const TouchedMemory touched = TRY(vm->touched_memory(call));
  stopwatch.lap("ask");
  const std::optional<BaseSnapshot> base = vm->base();
  if (!base) {
    return fail({Code::kFailedPrecondition, "NO_BASE"}, "record %s: it goes on from no snapshot",
                vm_id.c_str());
  }
  RecordOutcome outcome{.touched_bytes = touched.touched_bytes,
                        .written_bytes = touched.written_bytes,
                        .is_exact = touched.is_exact,
                        .times = {}};
  outcome.template_ids =
      templates_.learn(base->memory_digest, touched.set, TRY(page_costs()).faults_of_copy());
  const Result<> added = store_.add_working_set(base->id, base->memory_digest, touched.set);
  if (added) outcome.snapshot_id = base->id;
  const bool is_gone =
      !added && (added.error().code() == Code::kNotFound || added.error().reason() == "BASE_GONE");
  // A template may outlive its snapshot.
  if (!added && (!is_gone || outcome.template_ids.empty())) return std::unexpected(added.error());
  stopwatch.lap("store");
  outcome.times = stopwatch.times();
  return outcome;
}

}  // namespace mayfly::daemon
