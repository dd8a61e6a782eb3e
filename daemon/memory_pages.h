// SPDX-License-Identifier: Apache-2.0
//
// A VM's memory and its pages, as MemoryService tells of them: plain values, and the checks of what
// a monitor says. Pages are counted from the memory's start. Any thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/control_codec.h"
#include "daemon/vm_view.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly::daemon {

/// control.proto's limits of one GetPages.
inline constexpr uint32_t kMaxQueryPages = 65536;
inline constexpr uint32_t kMaxZeroQueryPages = 8192;

/// Which file a memory is, as long as it is open.
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;

  auto operator<=>(const FileIdentity&) const = default;
};

/// The memory of a VM that has not stopped.
struct MemoryView {
  std::string vm_id;
  std::string incarnation;
  VmState state = VmState::kCreating;
  pid_t monitor_pid = 0;
  uint64_t memory_bytes = 0;
  // The VM has what it changed since alone; `file` is its base.
  bool is_private = false;
  // Nobody can write the file any more.
  bool is_sealed = false;
  // The snapshot or VM that the file was the memory of.
  std::string origin;
  FileIdentity file;
  uint64_t allocated_bytes = 0;
  uint64_t block_bytes = 0;
};

/// The numbers are mayfly.v1.PageKind's.
enum class PageKind : uint8_t { kChanged = 1, kResident = 2, kSwapped = 3, kZero = 4 };
inline constexpr size_t kPageKinds = 4;

struct PageRun {
  uint64_t first_page = 0;
  uint64_t page_count = 0;

  bool operator==(const PageRun&) const = default;
};

/// What a monitor said of a stretch of pages, checked; a bit for each, from the lowest of byte 0
/// on.
struct PageStretch {
  uint64_t first_page = 0;
  uint32_t page_count = 0;
  MonitorPages pages;
  // What the VM was doing then.
  VmState state = VmState::kCreating;

  /// Its bits of one kind.
  const std::string& bits(PageKind kind) const;
};

/// UNAVAILABLE MONITOR_REPLY where `pages` is not about as many as were asked for, or contradicts
/// itself.
Result<> check_pages(const MonitorPages& pages, const PageQuery& query);

/// The runs of set bits among `count`; `first_page` is the number of the first.
std::vector<PageRun> runs_of(std::string_view bits, uint64_t first_page, uint32_t count);
uint64_t count_bits(std::string_view bits);
uint64_t count_bits(std::span<const uint64_t> words);

/// Which pages of a sparse file have something in them.
Result<std::string> allocated_pages(FdRef file, uint64_t first_page, uint32_t count);

}  // namespace mayfly::daemon
