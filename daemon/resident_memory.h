// SPDX-License-Identifier: Apache-2.0
//
// A snapshot's memory made resident: a memfd that many VMs map privately. Any thread; blocks on the
// disk.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "snapshot/chain.h"

#include <cstdint>
#include <vector>

namespace mayfly::daemon {

struct ResidentMemory {
  Fd file;
  /// By 2 MiB: which of them are one huge page.
  std::vector<bool> huge_chunks;
};

/// What of it is in huge pages.
uint64_t huge_bytes(const std::vector<bool>& huge_chunks);

/// The memory that a chain is, in a file of its own that nobody can write any more. Every page is
/// held against its digest as it is read: DATA_LOSS MEMORY_DAMAGED. What the snapshot's working set
/// has touched, and what is at least half full, gets huge pages where the host gives them;
/// elsewhere pages that are zero are holes. Not of a STATE_ONLY. RESOURCE_EXHAUSTED HOST_MEMORY
/// where the host has no room for it.
Result<ResidentMemory> make_resident(const snapshot::Chain& chain);

/// What it takes of the host's memory.
Result<uint64_t> resident_bytes(FdRef memory);

}  // namespace mayfly::daemon
