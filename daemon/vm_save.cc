// SPDX-License-Identifier: Apache-2.0
//
// How a VM is saved: it stands still while its monitor writes its state and gives up its memory, or
// copies what has changed of it.
#include "base/clock.h"
#include "daemon/vm.h"
#include "snapshot/disk_file_sys.h"
#include "snapshot/manifest.h"

#include <algorithm>
#include <cerrno>

#include <fcntl.h>

namespace mayfly::daemon {

namespace {

constexpr auto kSaveLimit = std::chrono::seconds(60);
constexpr auto kResumeLimit = std::chrono::seconds(60);

// As long as the monitor needs them: it may not change a file's length.
Result<PageLayer> new_layer(uint64_t memory_bytes) {
  const uint64_t page_count = memory_bytes / snapshot::kPageBytes;
  return PageLayer{.memory = TRY(Fd::memfd("mayfly-layer", memory_bytes)),
                   .pages = TRY(Fd::memfd("mayfly-layer-pages", (page_count + 7) / 8))};
}

}  // namespace

Result<> seal_memfd(FdRef memfd) {
  if (::fcntl(memfd.number(), F_ADD_SEALS,
              F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0) {
    return fail_errno({Code::kUnavailable, "MEMORY_IN_USE"}, errno,
                      "seal what the monitor should have left");
  }
  return {};
}

Result<SavedVm> Vm::save(const SavePlan& plan, const Call& call, Stopwatch& stopwatch) {
  TRY(wait_created(call));
  TRY(wait_memory(call, stopwatch));
  const VmState before = TRY(begin_save(call));
  stopwatch.lap("queue");
  auto shared = before == VmState::kRunning ? share_disks(plan) : Result<>();
  if (!shared) {
    release();
    return std::unexpected(std::move(shared).error());
  }
  if (!plan.disks.empty()) stopwatch.lap("share-disks");
  const uint64_t stop_ns = monotonic_ns();
  auto saved = save_stopped(plan, before, call, stopwatch);
  if (before == VmState::kRunning && (!saved || !plan.stay_paused)) {
    // The monitor answers in order: this one comes after whatever was given up above. It is sent
    // also where nobody waits for it any more, and no other call may come between.
    const auto waits = call.check("resume");
    const Call patience =
        waits ? call.at_most(kResumeLimit) : Call::within(std::chrono::milliseconds(0));
    const auto resumed =
        change_now("resume", VmState::kPaused, VmState::kRunning, Command::kResume, patience);
    stopwatch.lap("resume");
    // Who has given up is told that, and not that nobody waited for the resume.
    if (saved && !resumed) saved = std::unexpected((waits ? resumed : waits).error());
  } else {
    release();
  }
  if (saved) saved->stopped_us = (monotonic_ns() - stop_ns) / 1000;
  return saved;
}

// A memory that is not whole has nothing to be saved.
Result<> Vm::wait_memory(const Call& call, Stopwatch& stopwatch) {
  std::unique_lock lock(mutex_);
  if (!is_memory_missing_ || state_ == VmState::kStopped) return {};
  if (fill_) fill_->hurry();
  TRY(call.wait(lock, changed_, "waiting until the VM has all of its memory",
                [&] { return !is_memory_missing_ || state_ == VmState::kStopped; }));
  stopwatch.lap("fill");
  return {};
}

Result<VmState> Vm::begin_save(const Call& call) {
  std::unique_lock lock(mutex_);
  TRY(claim(lock, "save", call));
  if (state_ != VmState::kRunning && state_ != VmState::kPaused) {
    return fail({Code::kFailedPrecondition, "VM_STATE"},
                "save %s: the VM is %s, it must be RUNNING or PAUSED", identity_.id.c_str(),
                state_name(state_));
  }
  busy_ = true;
  return state_;
}

Result<std::vector<WritableDisk>> Vm::writable_disks() const {
  std::lock_guard lock(mutex_);
  if (state_ == VmState::kStopped) return std::unexpected(stopped_error("save"));
  std::vector<WritableDisk> disks;
  for (const WritableDisk& disk : disks_) {
    disks.push_back({.place = disk.place,
                     .file = TRY(Fd::duplicate(disk.file.ref())),
                     .size_bytes = disk.size_bytes});
  }
  return disks;
}

// While it runs: what this shares is thrown away, but writing out what was dirty is done then.
Result<> Vm::share_disks(const SavePlan& plan) {
  if (plan.disks.empty()) return {};
  const std::vector<WritableDisk> disks = TRY(writable_disks());
  for (const DiskCapture& capture : plan.disks) {
    const auto disk = std::ranges::find(disks, capture.place, &WritableDisk::place);
    TRY(snapshot::share_disk(disk->file.ref(), capture.to, disk->size_bytes));
  }
  return {};
}

// Its writes are done and in the page cache, from which a copy is made: nothing has to be synced.
Result<> Vm::copy_disks(const SavePlan& plan, const Call& call) {
  if (plan.disks.empty()) return {};
  const std::vector<WritableDisk> disks = TRY(writable_disks());
  for (const DiskCapture& capture : plan.disks) {
    const auto disk = std::ranges::find(disks, capture.place, &WritableDisk::place);
    const auto copied = snapshot::copy_disk(disk->file.ref(), capture.to, disk->size_bytes,
                                            [&] { return call.check("copying a disk"); });
    if (copied) continue;
    return std::unexpected(Error(copied.error()).with_context(disk_field(spec_, capture.place)));
  }
  return {};
}

Result<SavedVm> Vm::save_stopped(const SavePlan& plan, VmState before, const Call& call,
                                 Stopwatch& stopwatch) {
  SavedVm saved;
  saved.state = TRY(Fd::memfd("mayfly-state", 0));
  SaveParams params{
      .state = saved.state.ref(), .state_only = plan.state_only, .changed_pages = std::nullopt};
  bool sealed = false;
  {
    // Nobody but us changes it: we have claimed the VM. It goes when the VM ends.
    std::lock_guard lock(mutex_);
    if (state_ == VmState::kStopped) return std::unexpected(stopped_error("save"));
    saved.memory = TRY(Fd::duplicate(memory_.file.ref()));
    saved.base = memory_.base;
    sealed = memory_.is_sealed;
    if (memory_.is_private && !plan.state_only)
      saved.layer = TRY(new_layer(spec_.memory_mib << 20));
  }
  if (saved.layer) {
    params.changed_pages = LayerParams{saved.layer->memory.ref(), saved.layer->pages.ref()};
  }
  if (!plan.state_only) body_->jail().allow_saving(spec_.memory_mib);
  if (before == VmState::kRunning) {
    TRY(command(Command::kPause, "pause", VmState::kRunning, VmState::kPaused, call));
    stopwatch.lap("pause");
  }
  // First: after a failure here the memory is as it was.
  TRY(copy_disks(plan, call));
  if (!plan.disks.empty()) stopwatch.lap("disks");
  const bool leaves = !saved.layer && !plan.state_only;
  const ControlReply reply = TRY(body_->monitor().call(
      [&](uint64_t id) { return encode_save(id, params); }, call.at_most(kSaveLimit), "save",
      [this, leaves](const Result<ControlReply>& result) {
        // Also where nobody waits for it any more.
        std::lock_guard lock(mutex_);
        if (leaves && result && !result->error) memory_.is_private = true;
      }));
  if (!reply.saved) {
    return fail({Code::kUnavailable, "MONITOR_REPLY"},
                "save: the monitor did not say what it saved");
  }
  saved.tsc_khz = reply.saved->tsc_khz;
  // What was shared with the monitor is ours alone from here on.
  TRY(seal_memfd(saved.state.ref()));
  if (saved.layer) {
    TRY(seal_memfd(saved.layer->memory.ref()));
    TRY(seal_memfd(saved.layer->pages.ref()));
  }
  if (!sealed && !plan.state_only) {
    TRY(seal_memfd(saved.memory.ref()));
    std::lock_guard lock(mutex_);
    memory_.is_sealed = true;
  }
  stopwatch.lap("save");
  return saved;
}

std::optional<BaseSnapshot> Vm::base() const {
  std::lock_guard lock(mutex_);
  return memory_.base;
}

void Vm::rebased(const BaseSnapshot& from, const snapshot::Digest& to) {
  std::lock_guard lock(mutex_);
  if (memory_.base == from) memory_.base->memory_digest = to;
}

void Vm::stands_on(BaseSnapshot base) {
  std::lock_guard lock(mutex_);
  memory_.base = std::move(base);
}

}  // namespace mayfly::daemon
