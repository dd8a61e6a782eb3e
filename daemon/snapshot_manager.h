// SPDX-License-Identifier: Apache-2.0
//
// What SnapshotService does, without gRPC: VMs into the store and out of it again. Any thread; the
// memory of a saved VM is written by the caller's thread, while the VM runs on.
#pragma once

#include "base/error.h"
#include "daemon/call.h"
#include "daemon/huge_pages_sys.h"
#include "daemon/lazy_server.h"
#include "daemon/snapshot_jobs.h"
#include "daemon/snapshot_store.h"
#include "daemon/template_store.h"
#include "daemon/vm_manager.h"
#include "snapshot/chain.h"
#include "snapshot/writer.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace mayfly::daemon {

inline constexpr size_t kMaxClones = 1000;

struct SnapshotRequest {
  std::string vm_id = {};
  std::string snapshot_id = {};
  // Neither: a FULL.
  bool is_diff = false;
  bool is_state_only = false;
  bool stay_paused = false;
  bool caller_keeps_disks = false;
  bool is_compressed = false;
};

struct SnapshotOutcome {
  SnapshotView snapshot;
  VmView vm;
  PhaseTimes times;
  uint64_t stopped_us = 0;
};

struct VerifyOutcome {
  SnapshotView snapshot;
  std::vector<std::string> verified_ids = {};
  PhaseTimes times;
};

struct DiskOverride {
  uint32_t index = 0;
  std::string path = {};
  DiskLimits limits = {};
};

struct NetOverride {
  uint32_t index = 0;
  NetSpec net;
};

/// What another VM than the saved one has.
struct RestoreOverrides {
  std::vector<DiskOverride> disks = {};
  std::optional<uint64_t> guest_cid = {};
  std::optional<uint32_t> console_kib = {};
  ResourceLimits limits = {};
  bool allow_slow_kvm = false;
  MemoryPolicy memory_policy = MemoryPolicy::kBalanced;
  bool record_working_set = false;
  std::vector<NetOverride> nets = {};
  std::shared_ptr<const MetadataDocument> metadata = {};
};

/// Whether a call answers only when its guest has confirmed that it reseeded itself.
struct ReseedWait {
  bool wanted = false;
  std::optional<uint32_t> timeout_ms = {};
};

struct RestoreVmPlan {
  // One of the two.
  std::string snapshot_id = {};
  std::string template_id = {};
  std::string vm_id = {};
  RestoreOverrides overrides = {};
  bool start = false;
  bool verify_memory = false;
  std::string request_id = {};
  // Not both.
  bool lazy_memory = false;
  std::string memory_handler = {};
  // Of a STATE_ONLY: a file with its memory.
  std::string memory_path = {};
  ReseedWait reseed = {};
};

struct RebasePlan {
  std::string snapshot_id = {};
  // One of those that it stands on, which it then stands on directly. Empty: on none.
  std::string onto_id = {};
  // Empty: in its place.
  std::string new_snapshot_id = {};
};

struct RebaseOutcome {
  SnapshotView snapshot;
  std::vector<std::string> merged_ids = {};
  PhaseTimes times;
};

struct CloneTarget {
  std::string vm_id = {};
  RestoreOverrides overrides = {};
};

struct ClonePlan {
  // One of the three.
  std::string snapshot_id = {};
  std::string source_vm_id = {};
  std::string template_id = {};
  std::vector<CloneTarget> targets = {};
  bool start = false;
  bool caller_keeps_disks = false;
  ReseedWait reseed = {};
};

struct RecordOutcome {
  // Empty: it is no longer there, or another.
  std::string snapshot_id = {};
  std::vector<std::string> template_ids = {};
  uint64_t touched_bytes = 0;
  uint64_t written_bytes = 0;
  bool is_exact = false;
  PhaseTimes times;
};

struct TemplateRequest {
  std::string template_id = {};
  std::string snapshot_id = {};
  uint32_t shells = 0;
};

struct TemplateOutcome {
  TemplateView made;
  PhaseTimes times;
};

/// Where memory comes from besides snapshots' files; both outlive the manager.
struct MemoryPlaces {
  TemplateStore& templates;
  LazyServer& lazy;
};

class SnapshotManager {
 public:
  /// Looks at the host that VMs are restored on.
  using HostLook = std::function<Result<snapshot::HostDescription>()>;

  /// All outlive it. The host is looked at when it is first needed.
  SnapshotManager(VmManager& vms, SnapshotStore& store, MemoryPlaces places, EventLog& events,
                  HostLook look)
      : vms_(vms),
        store_(store),
        templates_(places.templates),
        lazy_(places.lazy),
        jobs_(events),
        look_(std::move(look)) {}

  Result<SnapshotOutcome> create(const SnapshotRequest& request, const Call& call);
  /// As SnapshotJobs::cancel().
  Result<std::vector<std::string>> cancel(const std::string& snapshot_id, const std::string& vm_id,
                                          const Call& call) {
    return jobs_.cancel(snapshot_id, vm_id, call);
  }
  Result<SnapshotView> get(const std::string& id) { return store_.get(id); }
  Result<SnapshotPage> list(size_t page_size, const std::string& page_token) {
    return store_.list(page_size, page_token);
  }
  Result<> remove(const std::string& id) { return store_.remove(id); }
  Result<VerifyOutcome> verify(const std::string& id, const Call& call = {});

  /// Merges a DIFF with those that it stands on, in its place or as another. VMs that stand on one
  /// that is replaced stand on the new one.
  Result<RebaseOutcome> rebase(const RebasePlan& plan, const Call& call);

  /// Its memory is read, checked and kept, and its shells are started; what it was made from may go
  /// afterwards.
  Result<TemplateOutcome> prepare_template(const TemplateRequest& request, const Call& call);

  /// What a VM that records it has touched so far becomes its snapshot's working set, and decides
  /// what VMs of that and of its templates copy.
  Result<RecordOutcome> record_working_set(const std::string& vm_id, const Call& call);

  Result<VmOutcome> restore(const RestoreVmPlan& plan, const Call& call);

  using CloneHook = std::function<void(const std::string& vm_id, const Result<VmOutcome>& made)>;
  /// The hook is called for each of the targets, by one thread at a time. An error: none was begun.
  Result<> clone(const ClonePlan& plan, const CloneHook& made, const Call& call);

 private:
  /// Where VMs that go on from a snapshot have its memory.
  enum class MemoryPlace { kFile, kVerifiedFile, kResident, kMissing, kHandler };
  Result<PreparedMachine> prepare_snapshot(const RestoreVmPlan& plan, MemoryPlace place,
                                           const Call& call, Stopwatch& stopwatch);
  Result<> place_memory(PreparedMachine& machine, snapshot::Chain chain, const RestoreVmPlan& plan,
                        MemoryPlace place);
  Result<PreparedMachine> prepare(const RestoreVmPlan& plan, const Call& call,
                                  Stopwatch& stopwatch);
  /// How long the answer is held.
  using Hold = std::optional<std::chrono::milliseconds>;
  Result<VmOutcome> make(const RestoreVmPlan& plan, const PreparedMachine& machine, Hold hold,
                         const Call& call, Stopwatch& stopwatch);
  Result<PreparedMachine> prepare_vm(const ClonePlan& plan, const Call& call);
  /// Where a snapshot is written to, who waits for it, and who is told how far it is.
  struct Sink {
    snapshot::SnapshotWriter& writer;
    std::span<const DiskCapture> disks;
    const Call& call;
    SnapshotJob& job;
    bool is_compressed = false;
  };
  Result<SavedVm> save(Vm& vm, const SnapshotRequest& request, const VmView& view, const Sink& sink,
                       Stopwatch& stopwatch);
  /// The digest of the memory's index.
  static Result<snapshot::Digest> write_saved_memory(const SavedVm& saved, uint64_t memory_bytes,
                                                     const std::optional<snapshot::Parent>& parent,
                                                     const Sink& sink);
  /// The same; zeroes of a STATE_ONLY.
  Result<snapshot::Digest> write(const SnapshotRequest& request, const VmView& vm,
                                 const SavedVm& saved, const Sink& sink, Stopwatch& stopwatch);
  Result<> check_host(const snapshot::HostRequirements& needed);
  /// Measured when they are first needed.
  Result<PageCosts> page_costs();

  VmManager& vms_;
  SnapshotStore& store_;
  TemplateStore& templates_;
  LazyServer& lazy_;
  SnapshotJobs jobs_;
  const HostLook look_;
  std::mutex mutex_;
  // Guarded by mutex_.
  std::optional<snapshot::HostDescription> host_;
  std::optional<PageCosts> costs_;
};

}  // namespace mayfly::daemon
