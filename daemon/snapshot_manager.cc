// SPDX-License-Identifier: Apache-2.0
#include "daemon/snapshot_manager.h"

#include "daemon/host_description_sys.h"
#include "daemon/saved_memory.h"
#include "daemon/saved_state.h"
#include "snapshot/memory_file.h"
#include "snapshot/state_codec.h"
#include "snapshot/writer.h"

#include <algorithm>

namespace mayfly::daemon {

namespace {

/// The base of a diff is still in the store, and still the same.
Result<> check_base(FdRef store, const BaseSnapshot& base) {
  const auto chain = snapshot::Chain::open(store, base.id);
  if (!chain && chain.error().code() == Code::kNotFound) {
    return fail({Code::kFailedPrecondition, "BASE_GONE"},
                "the snapshot %s, which a DIFF would be over, is no longer there", base.id.c_str());
  }
  if (!chain) return std::unexpected(Error(chain.error()).with_context(base.id));
  const auto& index = chain->newest().index();
  if (!index || index->digest != base.memory_digest) {
    return fail({Code::kFailedPrecondition, "BASE_GONE"},
                "the snapshot %s is another than the one that a DIFF would be over",
                base.id.c_str());
  }
  if (chain->snapshots().size() >= snapshot::kMaxChainLength) {
    return fail({Code::kFailedPrecondition, "CHAIN_LENGTH"},
                "the snapshot %s stands on %zu others, which is the limit; make a FULL",
                base.id.c_str(), chain->snapshots().size() - 1);
  }
  return {};
}

/// A part for each disk that the VM can write to.
Result<std::vector<DiskCapture>> create_disks(const VmSpec& spec,
                                              snapshot::SnapshotWriter& writer) {
  std::vector<DiskCapture> captures;
  const std::vector<const DiskSpec*> disks = all_disks(spec);
  for (size_t place = 0; place < disks.size(); ++place) {
    if (disks[place]->read_only) continue;
    captures.push_back({.place = place, .to = TRY(writer.create_disk(place))});
  }
  return captures;
}

Result<BaseSnapshot> base_of(const Vm& vm) {
  auto base = vm.base();
  if (base) return *std::move(base);
  return fail({Code::kFailedPrecondition, "NO_BASE"},
              "save %s: its memory stands on no snapshot that a DIFF could be over; make a FULL",
              vm.identity().id.c_str());
}

}  // namespace

Result<SnapshotOutcome> SnapshotManager::create(const SnapshotRequest& request, const Call& call) {
  Stopwatch stopwatch;
  TRY(validate_snapshot_id(request.snapshot_id));
  const VmPin vm = TRY(vms_.find(request.vm_id));
  const VmView view = TRY(vm->wait_created(call));
  const FdRef directory = TRY(store_.directory());
  std::optional<SnapshotHold> hold;
  if (request.is_diff) {
    hold.emplace(store_.hold(TRY(base_of(*vm)).id));
    // Read again: until it was held it may have been rebased.
    TRY(check_base(directory, TRY(base_of(*vm))));
  }
  std::optional<snapshot::SnapshotWriter> writer(
      TRY(snapshot::SnapshotWriter::create({.store = directory, .name = request.snapshot_id})));
  const std::vector<DiskCapture> disks = request.caller_keeps_disks
                                             ? std::vector<DiskCapture>()
                                             : TRY(create_disks(view.spec, *writer));
  stopwatch.lap("prepare");
  SnapshotJob job(jobs_, view.id, view.incarnation, request.snapshot_id,
                  view.spec.memory_mib << 20);
  const Call patience = job.call(call);
  auto saved = save(*vm, request, view,
                    {.writer = *writer,
                     .disks = disks,
                     .call = patience,
                     .job = job,
                     .is_compressed = request.is_compressed},
                    stopwatch);
  if (!saved) {
    // Before it is told: nothing of it is left.
    writer.reset();
    return std::unexpected(job.failed(std::move(saved).error()));
  }
  job.succeeded();
  return SnapshotOutcome{.snapshot = TRY(store_.get(request.snapshot_id)),
                         .vm = vm->view(),
                         .times = stopwatch.times(),
                         .stopped_us = saved->stopped_us};
}

Result<SavedVm> SnapshotManager::save(Vm& vm, const SnapshotRequest& request, const VmView& view,
                                      const Sink& sink, Stopwatch& stopwatch) {
  SavedVm saved = TRY(vm.save({.stay_paused = request.stay_paused,
                               .disks = {sink.disks.begin(), sink.disks.end()},
                               .state_only = request.is_state_only},
                              sink.call, stopwatch));
  const snapshot::Digest digest = TRY(write(request, view, saved, sink, stopwatch));
  // What it left behind now, and goes on from, is what the snapshot has.
  if (!saved.layer && !request.is_state_only)
    vm.stands_on({.id = request.snapshot_id, .memory_digest = digest});
  return saved;
}

Result<snapshot::Digest> SnapshotManager::write_saved_memory(
    const SavedVm& saved, uint64_t memory_bytes, const std::optional<snapshot::Parent>& parent,
    const Sink& sink) {
  sink.job.writes_memory();
  SavedMemory memory = TRY(SavedMemory::open(saved, memory_bytes, sink.call,
                                             [&](uint64_t offset) { sink.job.reached(offset); }));
  const auto written = TRY(snapshot::write_memory(
      {.file = TRY(sink.writer.create_part(sink.is_compressed ? snapshot::kCompressedMemoryName
                                                              : snapshot::kMemoryName)),
       .ram = memory,
       .memory_bytes = memory_bytes,
       .parent_digest = parent ? parent->memory_digest : snapshot::Digest{},
       .dirty = parent ? memory.changed_pages() : std::span<const uint64_t>(),
       .is_compressed = sink.is_compressed}));
  const snapshot::Sealed index = TRY(snapshot::encode_index(written.index));
  TRY(sink.writer.write_part(snapshot::kMemoryIndexName, index));
  return index.digest;
}

Result<snapshot::Digest> SnapshotManager::write(const SnapshotRequest& request, const VmView& vm,
                                                const SavedVm& saved, const Sink& sink,
                                                Stopwatch& stopwatch) {
  const snapshot::MachineState state = TRY(read_saved_state(saved.state.ref(), vm.spec));
  snapshot::MachineInfo machine = machine_info(vm.spec, vm.cmdline, state);
  TRY(mark_captured(sink.disks, machine));
  std::optional<snapshot::Parent> parent;
  if (request.is_diff) parent = {.id = saved.base->id, .memory_digest = saved.base->memory_digest};
  snapshot::Digest digest;
  if (!request.is_state_only) {
    digest = TRY(write_saved_memory(saved, vm.spec.memory_mib << 20, parent, sink));
    stopwatch.lap("memory");
  }
  if (!sink.disks.empty()) {
    TRY(sink.writer.settle_disks([&] { return sink.call.check("reading the disks' copies"); }));
    stopwatch.lap("disk-digests");
  }
  sink.job.syncs();
  TRY(sink.writer.write_part(snapshot::kStateName, snapshot::encode_state(state)));
  TRY(sink.writer.commit({.id = request.snapshot_id,
                          .kind = request.is_state_only ? snapshot::Kind::kStateOnly
                                  : parent              ? snapshot::Kind::kDiff
                                                        : snapshot::Kind::kFull,
                          .parent = parent,
                          .created_ns = static_cast<uint64_t>(unix_now_us()) * 1000,
                          .machine = std::move(machine),
                          .host = requirements_of(state, saved.tsc_khz),
                          .parts = {}},
                         [&] -> Result<> {
                           TRY(sink.call.check("the commit"));
                           return sink.job.commits();
                         }));
  stopwatch.lap("commit");
  return digest;
}

Result<VerifyOutcome> SnapshotManager::verify(const std::string& id, const Call& call) {
  Stopwatch stopwatch;
  TRY(validate_snapshot_id(id));
  SnapshotView view = TRY(store_.get(id));
  const SnapshotHold hold = store_.hold(id);
  const auto chain = TRY(snapshot::Chain::open(TRY(store_.directory()), id));
  stopwatch.lap("open");
  TRY(chain.verify_memory());
  stopwatch.lap("memory");
  TRY(chain.verify_disks([&] { return call.check("reading the disks"); }));
  stopwatch.lap("disks");
  VerifyOutcome outcome{.snapshot = std::move(view), .verified_ids = {}, .times = {}};
  for (const snapshot::Snapshot& each : chain.snapshots()) {
    outcome.verified_ids.push_back(each.manifest().id);
  }
  outcome.times = stopwatch.times();
  return outcome;
}

Result<> SnapshotManager::check_host(const snapshot::HostRequirements& needed) {
  std::lock_guard lock(mutex_);
  if (!host_) host_ = TRY(look_());
  return snapshot::check_host(needed, *host_);
}

}  // namespace mayfly::daemon
