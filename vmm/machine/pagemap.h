// SPDX-License-Identifier: Apache-2.0
//
// The monitor's own /proc/self/pagemap (the kernel's admin-guide/mm/pagemap.rst): which of its
// pages are there, and whose. It tells a process without privileges nothing about the host's
// memory: frame numbers are zero.
//
// Threads: any.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstdint>
#include <span>

namespace mayfly {

/// One page's entry.
struct PagemapEntry {
  uint64_t bits = 0;

  bool is_present() const { return (bits >> 63 & 1) != 0; }
  bool is_swapped() const { return (bits >> 62 & 1) != 0; }
  /// Of a file, or of memory that is shared like one.
  bool is_of_file() const { return (bits >> 61 & 1) != 0; }
  /// This process's alone, in RAM or swapped out.
  bool is_private() const { return bits >> 62 != 0 && !is_of_file(); }
};
static_assert(sizeof(PagemapEntry) == 8);

/// Opens it, while we are still dumpable: afterwards it belongs to root. `proc_self`: the directory
/// that the jailer left us, which closes here; invalid: /proc/self is looked up by name.
Result<Fd> open_pagemap(Fd proc_self);

/// The entries of the pages from `host_address` on. kFailedPrecondition NO_PAGEMAP where `pagemap`
/// is invalid.
Result<> read_pagemap(FdRef pagemap, uint64_t host_address, std::span<PagemapEntry> entries);

}  // namespace mayfly
