// SPDX-License-Identifier: Apache-2.0
//
// Guest RAM that begins with every page missing, and that somebody else fills as it is touched
// (docs/lazy-memory.md). The monitor makes the userfaultfd, since it is the one of an address
// space's own, and gives it away: what is registered and who provides what is the other side's.
//
// While pages are missing a thread of its own, the guard, waits for the end of that other side. All
// others may be stuck in a page fault then, and nobody else might be left to end them. The guard
// keeps a userfaultfd as well: where the last one of an address space is closed, pages that are
// missing read as zero.
//
// Threads: the loop thread, before there is a machine.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "base/memory/guest_memory.h"
#include "vmm/machine/config.h"
#include "vmm/seccomp/confinement.h"

namespace mayfly {

struct MissingMemory {
  Fd file;
  GuestMemory ram;

  /// Maps it, sends the userfaultfd over config.guard, starts the guard.
  static Result<MissingMemory> create(MissingMemoryConfig config, vmm::Confinement confinement);
};

}  // namespace mayfly
