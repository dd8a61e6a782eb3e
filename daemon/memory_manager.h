// SPDX-License-Identifier: Apache-2.0
//
// What MemoryService does, without gRPC. Any thread; each call waits no longer than its `call`
// allows.
#pragma once

#include "base/error.h"
#include "daemon/call.h"
#include "daemon/memory_exports.h"
#include "daemon/memory_pages.h"
#include "daemon/vm_manager.h"

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace mayfly::daemon {

inline constexpr uint32_t kDefaultExportSeconds = 30;
inline constexpr uint32_t kMaxExportSeconds = 600;

/// A memory that VMs are over.
struct MemoryBase {
  FileIdentity file;
  std::string origin;
  bool is_sealed = false;
  uint64_t allocated_bytes = 0;
  uint32_t vm_count = 0;
};

/// Of a monitor's process, by the kernel's counters.
struct ProcessMemory {
  uint64_t anonymous_bytes = 0;
  uint64_t file_bytes = 0;
  // Of files in memory, as a memfd.
  uint64_t shared_memory_bytes = 0;
  uint64_t swapped_bytes = 0;
};

/// From the text of /proc/PID/status.
Result<ProcessMemory> parse_process_status(std::string_view text);

struct MemoryUsage {
  std::string vm_id;
  uint64_t unique_bytes = 0;
  uint64_t shared_bytes = 0;
  uint64_t swapped_bytes = 0;
  // Of a VM over a base.
  std::optional<FileIdentity> base;
};

MemoryUsage usage_of(const MemoryView& memory, const ProcessMemory& process);

struct PageCounts {
  uint64_t resident = 0;
  uint64_t changed = 0;
  uint64_t swapped = 0;
};

struct MemoryDescription {
  MemoryView memory;
  std::optional<MemoryBase> base;
  std::optional<MemoryUsage> usage;
  std::optional<PageCounts> pages;
};

struct PagesPlan {
  std::string vm_id;
  uint64_t first_page = 0;
  uint64_t page_count = 0;  // 0: to the end
  std::vector<PageKind> kinds;
};

struct ExportPlan {
  std::string vm_id;
  bool is_frozen = false;
  uint32_t timeout_s = 0;  // 0: kDefaultExportSeconds
};

struct ExportOffer {
  std::string socket_path;
  ExportHeader header;
  uint64_t stopped_us = 0;
};

struct UsagePage {
  std::vector<MemoryUsage> usages;
  std::vector<MemoryBase> bases;
  std::string next_page_token;
};

class MemoryManager {
 public:
  /// Both outlive it.
  MemoryManager(VmManager& vms, MemoryExports& exports) : vms_(vms), exports_(exports) {}

  Result<MemoryDescription> describe(const std::string& vm_id, bool count_pages, const Call& call);
  /// `told` gets each stretch, in order; it answers false where nobody listens any more.
  Result<> query(const PagesPlan& plan, const std::function<bool(const PageStretch&)>& told,
                 const Call& call);
  Result<ExportOffer> offer(const ExportPlan& plan, const Call& call);
  Result<UsagePage> usage(size_t page_size, const std::string& page_token);

 private:
  std::map<FileIdentity, uint32_t> count_bases();
  /// Of one that has been created.
  static Result<> query(Vm& vm, const PagesPlan& asked,
                        const std::function<bool(const PageStretch&)>& told, const Call& call);

  VmManager& vms_;
  MemoryExports& exports_;
};

}  // namespace mayfly::daemon
