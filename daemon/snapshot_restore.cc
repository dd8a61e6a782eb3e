// SPDX-License-Identifier: Apache-2.0
//
// How VMs go on from snapshots and from each other: everything is looked at before a process
// exists.
#include "daemon/handler_source.h"
#include "daemon/random.h"
#include "daemon/resident_memory.h"
#include "daemon/saved_memory.h"
#include "daemon/saved_state.h"
#include "daemon/snapshot_manager.h"
#include "snapshot/disk_file_sys.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>

namespace mayfly::daemon {

namespace {

// How many VMs are made at once: each is a process that its host's CPUs have to start.
constexpr size_t kClonesAtOnce = 8;

uint64_t fresh_guest_cid() {
  uint32_t number = 0;
  const std::string bytes = random_bytes(sizeof(number));
  std::memcpy(&number, bytes.data(), sizeof(number));
  return kMinGuestCid + number % (kMaxGuestCid - kMinGuestCid + 1);
}

/// Of a STATE_ONLY, and of nothing else, the caller has the memory.
Result<> check_memory(const snapshot::Snapshot& newest, const std::string& memory_path) {
  const bool state_only = newest.manifest().kind == snapshot::Kind::kStateOnly;
  if (state_only && memory_path.empty()) {
    return fail({Code::kFailedPrecondition, "NO_MEMORY"},
                "snapshot %s: is a STATE_ONLY, RestoreVm needs its memory in memory_path",
                newest.manifest().id.c_str());
  }
  if (!state_only && !memory_path.empty()) {
    return fail({Code::kInvalidArgument, "MEMORY_PATH"},
                "memory_path: the snapshot %s is no STATE_ONLY, it has its memory",
                newest.manifest().id.c_str());
  }
  return {};
}

/// What was captured, by place.
Result<std::vector<Fd>> disks_of(const snapshot::Snapshot& snapshot) {
  std::vector<Fd> disks;
  for (size_t i = 0; i < snapshot.manifest().machine.disks.size(); ++i) {
    const FdRef disk = snapshot.disk(i);
    disks.push_back(disk.valid() ? TRY(Fd::duplicate(disk)) : Fd());
  }
  return disks;
}

/// What a shell has cannot be changed when it is claimed.
bool fits_shell(const RestoreOverrides& overrides, const VmSpec& shell) {
  const ResourceLimits& limits = overrides.limits;
  return !limits.cpu_milli && !limits.cpu_weight && !limits.memory_mib && !limits.pids_max &&
         overrides.console_kib.value_or(shell.console_kib) == shell.console_kib &&
         !overrides.record_working_set && overrides.memory_policy == shell.memory_policy &&
         std::ranges::none_of(overrides.disks,
                              [](const DiskOverride& disk) { return disk.limits.any(); });
}

Result<> apply(const std::vector<NetOverride>& overrides, std::vector<NetSpec>& nets) {
  std::vector<bool> given(nets.size());
  for (const NetOverride& override : overrides) {
    if (override.index >= nets.size() || given[override.index]) {
      return fail({Code::kInvalidArgument, "NET_INDEX"},
                  "overrides.nets: index %u is there twice, or the saved VM has %zu of them only",
                  override.index, nets.size());
    }
    given[override.index] = true;
    NetSpec& there = nets[override.index];
    const auto saved_mtu = there.saved_mtu;
    if (override.net.mtu && override.net.mtu != saved_mtu) {
      return fail({Code::kFailedPrecondition, "NET_MTU"},
                  "overrides.nets[%u].mtu: %u, the saved device has %u", override.index,
                  *override.net.mtu, saved_mtu.value_or(0));
    }
    there = override.net;
    there.saved_mtu = saved_mtu;
  }
  return {};
}

Result<VmSpec> apply(const RestoreOverrides& overrides, VmSpec spec) {
  std::vector<bool> given(all_disks(spec).size());
  for (const DiskOverride& disk : overrides.disks) {
    if (disk.index >= given.size()) {
      return fail({Code::kInvalidArgument, "DISK_INDEX"},
                  "overrides.disks: index %u, where the saved VM has %zu disks", disk.index,
                  given.size());
    }
    if (given[disk.index]) {
      return fail({Code::kInvalidArgument, "DISK_INDEX"},
                  "overrides.disks: index %u is there twice", disk.index);
    }
    given[disk.index] = true;
    DiskSpec& there = spec.disks[disk.index];
    there.limits = disk.limits;
    if (there.own && disk.path.empty()) continue;
    there.path = disk.path;
    there.own = false;
  }
  for (size_t i = 0; i < spec.disks.size(); ++i) {
    if (!spec.disks[i].path.empty() || spec.disks[i].own || given[i]) continue;
    return fail({Code::kInvalidArgument, "DISK_MISSING"},
                "overrides.disks: no file for disk %zu, of %llu bytes, %s", i,
                static_cast<unsigned long long>(spec.disks[i].size_bytes.value_or(0)),
                spec.disks[i].read_only ? "read-only" : "writable");
  }
  TRY(apply(overrides.nets, spec.nets));
  if (overrides.guest_cid && !spec.agent) {
    return fail({Code::kInvalidArgument, "GUEST_CID"},
                "overrides.guest_cid: the saved VM has no vsock device");
  }
  if (overrides.metadata && !spec.agent) {
    return fail({Code::kInvalidArgument, "NO_AGENT"},
                "overrides.metadata: the saved VM has no agent that could serve it");
  }
  if (overrides.memory_policy == MemoryPolicy::kUnknown) {
    return fail({Code::kInvalidArgument, "MEMORY_POLICY"},
                "overrides.memory_policy: is none of LAZY, BALANCED, LATENCY");
  }
  spec.guest_cid = overrides.guest_cid.value_or(fresh_guest_cid());
  if (overrides.console_kib) spec.console_kib = *overrides.console_kib;
  spec.limits = overrides.limits;
  spec.allow_slow_kvm = overrides.allow_slow_kvm;
  spec.memory_policy = overrides.memory_policy;
  spec.record_working_set = overrides.record_working_set;
  spec.metadata = overrides.metadata;
  return spec;
}

constexpr uint32_t kDefaultReseedMs = 30'000;
constexpr uint32_t kMaxReseedMs = 600'000;

/// For how long a restore's call waits for its guest's word, if it does.
Result<std::optional<std::chrono::milliseconds>> hold_of(const ReseedWait& wait, bool start) {
  const Failure refused{Code::kInvalidArgument, "WAIT_RESEEDED"};
  if (!wait.wanted && wait.timeout_ms)
    return fail(refused, "reseed_timeout_ms: is there, where wait_reseeded is not");
  if (!wait.wanted) return std::nullopt;
  if (!start) return fail(refused, "wait_reseeded: needs start; a PAUSED guest confirms nothing");
  const uint32_t timeout_ms = wait.timeout_ms.value_or(kDefaultReseedMs);
  if (timeout_ms == 0 || timeout_ms > kMaxReseedMs) {
    return fail(refused, "reseed_timeout_ms: %u is not within 1 to %u", timeout_ms, kMaxReseedMs);
  }
  return std::chrono::milliseconds(timeout_ms);
}

Result<> check_hold(const ReseedWait& wait, const VmSpec& spec) {
  if (!wait.wanted || spec.agent) return {};
  return fail({Code::kFailedPrecondition, "NO_AGENT"},
              "wait_reseeded: the saved VM has no agent that could confirm it");
}

}  // namespace

Result<PreparedMachine> SnapshotManager::prepare_snapshot(const RestoreVmPlan& plan,
                                                          MemoryPlace place, const Call& call,
                                                          Stopwatch& stopwatch) {
  const std::string& id = plan.snapshot_id;
  TRY(validate_snapshot_id(id));
  const SnapshotHold hold = store_.hold(id);
  (void)TRY(store_.get(id));
  const FdRef directory = TRY(store_.directory());
  auto chain = TRY(snapshot::Chain::open(directory, id));
  const snapshot::Manifest& manifest = chain.newest().manifest();
  TRY(check_host(manifest.host));
  VmSpec spec = TRY(spec_of(manifest.machine));
  stopwatch.lap("open-snapshot");
  if (place != MemoryPlace::kHandler) TRY(check_memory(chain.newest(), plan.memory_path));
  if (place == MemoryPlace::kVerifiedFile) {
    TRY(chain.verify_memory());
    TRY(chain.newest().verify_disks([&] { return call.check("reading the disks"); }));
    stopwatch.lap("verify");
  }
  if (place == MemoryPlace::kResident) {
    TRY(chain.newest().verify_disks([&] { return call.check("reading the disks"); }));
  }
  PreparedMachine prepared{.source = {.state = TRY(state_file(chain.newest().state())),
                                      .memory = {},
                                      .layers = {},
                                      .disks = TRY(disks_of(chain.newest())),
                                      .disk_directory = directory,
                                      .base = std::nullopt,
                                      .origin = id},
                           .spec = std::move(spec)};
  TRY(place_memory(prepared, std::move(chain), plan, place));
  stopwatch.lap("memory");
  return prepared;
}

Result<> SnapshotManager::place_memory(PreparedMachine& machine, snapshot::Chain chain,
                                       const RestoreVmPlan& plan, MemoryPlace place) {
  // Whose memory it is says RestoreVm.
  if (place == MemoryPlace::kHandler) return {};
  const snapshot::Snapshot& newest = chain.newest();
  if (const auto& index = newest.index()) {
    machine.source.base = BaseSnapshot{.id = machine.source.origin, .memory_digest = index->digest};
  }
  if (!plan.memory_path.empty()) {
    machine.source.memory =
        TRY(open_memory_file(plan.memory_path, newest.manifest().machine.memory_bytes));
  } else if (place == MemoryPlace::kMissing) {
    machine.source.missing = lazy_.source(std::move(chain));
    return {};
  } else if (chain.snapshots().size() == 1 && place != MemoryPlace::kResident &&
             !newest.is_compressed()) {
    machine.source.memory = TRY(Fd::duplicate(newest.memory()));
  } else {
    ResidentMemory memory = TRY(make_resident(chain));
    machine.source.memory = std::move(memory.file);
    machine.huge_chunks = std::move(memory.huge_chunks);
  }
  if (const auto& touched = newest.working_set()) {
    const uint32_t faults = TRY(page_costs()).faults_of_copy();
    machine.source.plans = {*touched,
                            {.faults_of_copy = faults, .huge_chunks = machine.huge_chunks}};
  }
  return {};
}

Result<PreparedMachine> SnapshotManager::prepare_vm(const ClonePlan& plan, const Call& call) {
  Stopwatch stopwatch;
  const VmPin vm = TRY(vms_.find(plan.source_vm_id));
  const VmView view = TRY(vm->wait_created(call));
  const std::vector<const DiskSpec*> disks = all_disks(view.spec);
  std::vector<Fd> copies(disks.size());
  FdRef directory;
  std::vector<DiskCapture> captures;
  for (size_t i = 0; i < disks.size() && !plan.caller_keeps_disks; ++i) {
    if (disks[i]->read_only) continue;
    directory = TRY(store_.directory());
    copies[i] = TRY(snapshot::nameless_file_in(directory));
    captures.push_back({.place = i, .to = copies[i].ref()});
  }
  SavedVm saved = TRY(vm->save({.stay_paused = false, .disks = captures}, call, stopwatch));
  const snapshot::MachineState state = TRY(read_saved_state(saved.state.ref(), view.spec));
  TRY(SavedMemory::open(saved, view.spec.memory_mib << 20, call));
  snapshot::MachineInfo machine = machine_info(view.spec, view.cmdline, state);
  TRY(mark_captured(captures, machine));
  VmSpec spec = TRY(spec_of(machine));
  spec.debug_serial = view.spec.debug_serial;
  for (size_t i = 0; i < disks.size(); ++i) {
    if (disks[i]->read_only) spec.disks[i].path = disks[i]->path;
  }
  PreparedMachine prepared{.source = {.state = TRY(state_file(state)),
                                      .memory = std::move(saved.memory),
                                      .layers = {},
                                      .disks = std::move(copies),
                                      .disk_directory = directory,
                                      .base = std::move(saved.base),
                                      .origin = view.id},
                           .spec = std::move(spec)};
  if (saved.layer) prepared.source.layers.push_back(*std::move(saved.layer));
  return prepared;
}

Result<TemplateOutcome> SnapshotManager::prepare_template(const TemplateRequest& request,
                                                          const Call& call) {
  Stopwatch stopwatch;
  const TemplateClaim claim = TRY(templates_.claim(request.template_id));
  PreparedMachine machine = TRY(prepare_snapshot({.snapshot_id = request.snapshot_id},
                                                 MemoryPlace::kResident, call, stopwatch));
  machine.source.template_id = request.template_id;
  machine.source.template_number = claim.number();
  TRY(call.check("preparing the template"));
  TemplateView view{.id = request.template_id,
                    .snapshot_id = request.snapshot_id,
                    .create_unix_us = unix_now_us(),
                    .spec = machine.spec,
                    .resident_bytes = TRY(resident_bytes(machine.source.memory.ref())),
                    .huge_bytes = huge_bytes(machine.huge_chunks),
                    .has_working_set = machine.source.plans.is_informed()};
  if (request.shells > 0) view.shells = ShellCounts{.wanted = request.shells};
  TemplateView made = TRY(templates_.add(claim, std::move(view), std::move(machine), call));
  if (request.shells > 0) stopwatch.lap("shells");
  return TemplateOutcome{.made = std::move(made), .times = stopwatch.times()};
}

Result<PreparedMachine> SnapshotManager::prepare(const RestoreVmPlan& plan, const Call& call,
                                                 Stopwatch& stopwatch) {
  if (!plan.template_id.empty() && !plan.memory_path.empty()) {
    return fail({Code::kInvalidArgument, "MEMORY_PATH"},
                "memory_path: the template %s has its memory", plan.template_id.c_str());
  }
  const bool is_handled = !plan.memory_handler.empty();
  const bool is_there = !plan.template_id.empty() || !plan.memory_path.empty();
  if ((plan.lazy_memory && is_handled) || ((plan.lazy_memory || is_handled) && is_there)) {
    return fail({Code::kInvalidArgument, "MEMORY_SOURCE"},
                "memory_source, lazy_memory: one of them, and neither with a template nor with a "
                "memory_path");
  }
  if ((plan.lazy_memory || is_handled) && plan.overrides.record_working_set) {
    return fail({Code::kInvalidArgument, "RECORD_SOURCE"},
                "overrides.record_working_set: of a VM whose memory is there when it starts, not "
                "with lazy_memory or memory_source");
  }
  if (!plan.template_id.empty()) return templates_.find(plan.template_id);
  if (is_handled) {
    auto handler = TRY(handler_source(vms_.environment().reactor, plan.memory_handler, plan.vm_id));
    PreparedMachine machine = TRY(prepare_snapshot(plan, MemoryPlace::kHandler, call, stopwatch));
    machine.source.missing = std::move(handler);
    return machine;
  }
  return prepare_snapshot(plan,
                          plan.lazy_memory     ? MemoryPlace::kMissing
                          : plan.verify_memory ? MemoryPlace::kVerifiedFile
                                               : MemoryPlace::kFile,
                          call, stopwatch);
}

Result<VmOutcome> SnapshotManager::restore(const RestoreVmPlan& plan, const Call& call) {
  Stopwatch stopwatch;
  TRY(vms_.check_new(plan.vm_id, plan.request_id));
  const auto hold = TRY(hold_of(plan.reseed, plan.start));
  if (auto before = TRY(vms_.made_before(plan.vm_id, plan.request_id, call))) {
    if (hold) {
      const VmPin vm = TRY(vms_.find(plan.vm_id));
      TRY(vm->wait_reseeded(*hold, call));
      before->vm = vm->view();
    }
    return *std::move(before);
  }
  const PreparedMachine prepared = TRY(prepare(plan, call, stopwatch));
  TRY(check_hold(plan.reseed, prepared.spec));
  return make(plan, prepared, hold, call, stopwatch);
}

Result<VmOutcome> SnapshotManager::make(const RestoreVmPlan& plan, const PreparedMachine& machine,
                                        Hold hold, const Call& call, Stopwatch& stopwatch) {
  std::optional<ShellOffer> shells;
  const uint64_t number = machine.source.template_number;
  if (number != 0 && fits_shell(plan.overrides, machine.spec))
    shells.emplace(templates_.shells(), number);
  return vms_.restore({.vm_id = plan.vm_id,
                       .spec = TRY(apply(plan.overrides, machine.spec)),
                       .start = plan.start,
                       .request_id = plan.request_id,
                       .source = machine.source,
                       .shells = shells ? &*shells : nullptr,
                       .hold = hold},
                      call, stopwatch);
}

Result<> SnapshotManager::clone(const ClonePlan& plan, const CloneHook& made, const Call& call) {
  if (plan.targets.empty() || plan.targets.size() > kMaxClones) {
    return fail({Code::kInvalidArgument, "CLONE_COUNT"}, "clones: %zu is not within 1 to %zu",
                plan.targets.size(), kMaxClones);
  }
  for (const CloneTarget& target : plan.targets) {
    TRY(vms_.check_new(target.vm_id, ""));
    if (!target.overrides.record_working_set || plan.source_vm_id.empty()) continue;
    return fail({Code::kInvalidArgument, "RECORD_SOURCE"},
                "overrides.record_working_set: of a VM that goes on from a snapshot or a template, "
                "not from another VM");
  }
  if (plan.snapshot_id.empty() && plan.source_vm_id.empty() && plan.template_id.empty()) {
    return fail({Code::kInvalidArgument, "CLONE_SOURCE"},
                "source: none of snapshot_id, source_vm_id and template_id");
  }
  const auto hold = TRY(hold_of(plan.reseed, plan.start));
  Stopwatch ignored;
  const PreparedMachine prepared =
      !plan.source_vm_id.empty()
          ? TRY(prepare_vm(plan, call))
          : TRY(prepare({.snapshot_id = plan.snapshot_id, .template_id = plan.template_id}, call,
                        ignored));
  TRY(check_hold(plan.reseed, prepared.spec));
  const auto make_clone = [&](const CloneTarget& target) -> Result<VmOutcome> {
    Stopwatch stopwatch;
    TRY(call.check("making the clone"));
    return make({.vm_id = target.vm_id, .overrides = target.overrides, .start = plan.start},
                prepared, hold, call, stopwatch);
  };
  std::atomic<size_t> next = 0;
  std::mutex one_at_a_time;
  std::vector<std::jthread> threads;
  for (size_t i = 0; i < std::min(plan.targets.size(), kClonesAtOnce); ++i) {
    threads.emplace_back([&] {
      for (size_t place = next++; place < plan.targets.size(); place = next++) {
        const CloneTarget& target = plan.targets[place];
        const auto outcome = make_clone(target);
        std::lock_guard lock(one_at_a_time);
        made(target.vm_id, outcome);
      }
    });
  }
  return {};
}

}  // namespace mayfly::daemon
