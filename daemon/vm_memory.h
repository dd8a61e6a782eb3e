// SPDX-License-Identifier: Apache-2.0
//
// What a VM is saved to and goes on from: its state, and a memory that nobody writes any more with
// layers of pages over it. Plain values; who has one owns its files.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/memory_plan.h"
#include "daemon/memory_source.h"
#include "daemon/spec.h"
#include "snapshot/digest.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace mayfly::daemon {

/// Some pages of a memory: a sparse file as long as that, and a bit for each page that is in it.
struct PageLayer {
  Fd memory;
  Fd pages;
};

/// The snapshot that a memory is the same as: what a diff may be over.
struct BaseSnapshot {
  std::string id;
  snapshot::Digest memory_digest;

  friend bool operator==(const BaseSnapshot&, const BaseSnapshot&) = default;
};

/// Where a VM's memory is. While it is shared, `file` has all of it; afterwards the VM's own pages
/// are private to its monitor, and `file` is what it had when they became so.
struct VmMemory {
  Fd file;
  bool is_private = false;
  // Nobody can write it any more.
  bool is_sealed = false;
  std::optional<BaseSnapshot> base;
};

/// A disk that a VM can write to, as the very file that its monitor has.
struct WritableDisk {
  size_t place = 0;
  Fd file;
  uint64_t size_bytes = 0;
};

/// Where what is on a VM's disk, which it can write to, is copied to while the VM stands still.
struct DiskCapture {
  /// Its place: 0 is /dev/vda.
  size_t place = 0;
  FdRef to;
};

/// A machine to go on from; many VMs may do so at once.
struct RestoreSource {
  /// The part `state`, as our own encoder wrote it.
  Fd state;
  /// Nobody writes it any more; with `missing` there is none.
  Fd memory;
  std::vector<PageLayer> layers;
  /// What was on its disks, by place; invalid or not there where nothing was captured.
  std::vector<Fd> disks;
  /// Where a VM's own copies of them are made, without a name; outlives this.
  FdRef disk_directory;
  std::optional<BaseSnapshot> base;
  /// For people: the snapshot's or the VM's id.
  std::string origin;
  /// Empty: of none.
  std::string template_id = {};
  /// Which of all that ever had this id; 0: of none.
  uint64_t template_number = 0;
  /// Which of its memory a VM copies, by its policy.
  MemoryPlans plans = {};
  /// Of one VM only: its memory comes from here once it runs.
  std::unique_ptr<MemorySource> missing = nullptr;
};

/// A machine to go on from, and what a VM of it is like but for the overrides.
struct PreparedMachine {
  RestoreSource source;
  VmSpec spec;
  /// By 2 MiB of its memory: which of them are one huge page.
  std::vector<bool> huge_chunks = {};
};

struct SavePlan {
  /// The VM is PAUSED afterwards, also where it ran. After a failure it goes on as it was.
  bool stay_paused = false;
  std::vector<DiskCapture> disks = {};
  /// The memory is the caller's to keep: `memory` and `layer` of what is saved are not there.
  bool state_only = false;
};

/// A saved VM. The state and the layer were written by its monitor: hostile, but nobody writes them
/// any more.
struct SavedVm {
  Fd state;
  Fd memory;
  /// Over `memory`; absent where that is all.
  std::optional<PageLayer> layer;
  std::optional<BaseSnapshot> base;
  uint32_t tsc_khz = 0;
  uint64_t stopped_us = 0;
};

/// As a monitor has said, which is not trusted: whether the bits say what is so.
struct TouchedMemory {
  snapshot::WorkingSet set;
  uint64_t touched_bytes = 0;
  uint64_t written_bytes = 0;
  bool is_exact = false;
};

/// The same file by a descriptor of its own that cannot be written through.
Result<Fd> reopen_for_reading(FdRef file);

/// From now on nobody can write a memfd or change its length; fails while anybody has it mapped
/// shared and writable.
Result<> seal_memfd(FdRef memfd);

}  // namespace mayfly::daemon
