// SPDX-License-Identifier: Apache-2.0
#include "daemon/memory_manager.h"

#include "daemon/saved_memory.h"
#include "snapshot/manifest.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include <fcntl.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

using ull = unsigned long long;
using snapshot::kPageBytes;

/// Anybody may read it of any process, its counters cost the kernel nothing, and a monitor that was
/// taken over cannot change what they say.
Result<ProcessMemory> process_memory(pid_t pid) {
  const Fd file = TRY(Fd::open(format("/proc/%d/status", pid).c_str(), O_RDONLY));
  std::array<char, 8192> text;
  const ssize_t size = ::read(file.number(), text.data(), text.size());
  if (size < 0) return fail_errno({Code::kUnavailable, "PROC_STATUS"}, errno, "read /proc");
  return parse_process_status({text.data(), static_cast<size_t>(size)});
}

std::optional<MemoryUsage> find_usage(const MemoryView& memory) {
  const auto process = process_memory(memory.monitor_pid);
  return process ? std::optional(usage_of(memory, *process)) : std::nullopt;
}

MemoryBase base_of(const MemoryView& memory, uint32_t vm_count) {
  return {.file = memory.file,
          .origin = memory.origin,
          .is_sealed = memory.is_sealed,
          .allocated_bytes = memory.allocated_bytes,
          .vm_count = vm_count};
}

Result<PagesPlan> checked(PagesPlan plan, uint64_t memory_bytes) {
  const uint64_t pages = memory_bytes / kPageBytes;
  if (plan.first_page >= pages) {
    return fail({Code::kInvalidArgument, "PAGE_RANGE"},
                "first_page: %llu is beyond the last of %llu pages",
                static_cast<ull>(plan.first_page), static_cast<ull>(pages));
  }
  const uint64_t most = pages - plan.first_page;
  if (plan.page_count > most) {
    return fail({Code::kInvalidArgument, "PAGE_RANGE"},
                "page_count: %llu from page %llu on are beyond the last of %llu pages",
                static_cast<ull>(plan.page_count), static_cast<ull>(plan.first_page),
                static_cast<ull>(pages));
  }
  if (plan.page_count == 0) plan.page_count = most;
  return plan;
}

}  // namespace

Result<ProcessMemory> parse_process_status(std::string_view text) {
  ProcessMemory memory;
  const std::pair<std::string_view, uint64_t*> fields[] = {
      {"\nRssAnon:", &memory.anonymous_bytes},
      {"\nRssFile:", &memory.file_bytes},
      {"\nRssShmem:", &memory.shared_memory_bytes},
      {"\nVmSwap:", &memory.swapped_bytes},
  };
  for (const auto& [name, value] : fields) {
    const size_t at = text.find(name);
    const size_t digit = at == text.npos ? at : text.find_first_not_of(" \t", at + name.size());
    uint64_t kib = 0;
    if (digit == text.npos ||
        std::from_chars(text.data() + digit, text.data() + text.size(), kib).ec != std::errc()) {
      return fail({Code::kUnavailable, "PROC_STATUS"}, "/proc/PID/status: no %s",
                  std::string(name.substr(1)).c_str());
    }
    *value = kib << 10;
  }
  return memory;
}

MemoryUsage usage_of(const MemoryView& memory, const ProcessMemory& process) {
  MemoryUsage usage{.vm_id = memory.vm_id,
                    .unique_bytes = process.anonymous_bytes + process.swapped_bytes,
                    .shared_bytes = process.file_bytes,
                    .swapped_bytes = process.swapped_bytes,
                    .base = std::nullopt};
  if (memory.is_private) {
    usage.shared_bytes += process.shared_memory_bytes;
    usage.base = memory.file;
  } else {
    usage.unique_bytes += process.shared_memory_bytes;
  }
  return usage;
}

std::map<FileIdentity, uint32_t> MemoryManager::count_bases() {
  std::map<FileIdentity, uint32_t> counts;
  for (const VmPin& vm : vms_.pins("", kMaxVms)) {
    const auto memory = vm->memory_view();
    if (memory && memory->is_private) ++counts[memory->file];
  }
  return counts;
}

Result<MemoryDescription> MemoryManager::describe(const std::string& vm_id, bool count_pages,
                                                  const Call& call) {
  const VmPin vm = TRY(vms_.find(vm_id));
  TRY(vm->wait_created(call));
  MemoryDescription description{.memory = TRY(vm->memory_view()),
                                .base = std::nullopt,
                                .usage = std::nullopt,
                                .pages = std::nullopt};
  description.usage = find_usage(description.memory);
  if (description.memory.is_private) {
    description.base = base_of(description.memory, count_bases()[description.memory.file]);
  }
  if (!count_pages) return description;
  PageCounts counts;
  const auto add = [&](const PageStretch& stretch) {
    counts.resident += count_bits(stretch.pages.resident);
    counts.changed += count_bits(stretch.pages.own);
    counts.swapped += count_bits(stretch.pages.swapped);
    return true;
  };
  TRY(query(*vm, {.vm_id = vm_id, .first_page = 0, .page_count = 0, .kinds = {PageKind::kChanged}},
            add, call));
  description.pages = counts;
  return description;
}

Result<> MemoryManager::query(const PagesPlan& asked,
                              const std::function<bool(const PageStretch&)>& told,
                              const Call& call) {
  const VmPin vm = TRY(vms_.find(asked.vm_id));
  TRY(vm->wait_created(call));
  return query(*vm, asked, told, call);
}

Result<> MemoryManager::query(Vm& vm, const PagesPlan& asked,
                              const std::function<bool(const PageStretch&)>& told,
                              const Call& call) {
  const PagesPlan plan = TRY(checked(asked, TRY(vm.memory_view()).memory_bytes));
  const bool find_zero = std::ranges::find(plan.kinds, PageKind::kZero) != plan.kinds.end();
  const uint64_t most = find_zero ? kMaxZeroQueryPages : kMaxQueryPages;
  for (uint64_t done = 0; done < plan.page_count;) {
    TRY(call.check("looking at pages"));
    const auto count = static_cast<uint32_t>(std::min(most, plan.page_count - done));
    const PageStretch stretch = TRY(vm.look_at_pages(
        {.first_page = plan.first_page + done, .page_count = count, .find_zero = find_zero}, call));
    if (!told(stretch)) return fail({Code::kCancelled, "CANCELLED"}, "nobody listens any more");
    done += count;
  }
  return {};
}

Result<ExportOffer> MemoryManager::offer(const ExportPlan& plan, const Call& call) {
  const uint32_t seconds = plan.timeout_s == 0 ? kDefaultExportSeconds : plan.timeout_s;
  if (seconds > kMaxExportSeconds) {
    return fail({Code::kInvalidArgument, "EXPORT_TIMEOUT"}, "timeout_s: %u is not within 1 to %u",
                seconds, kMaxExportSeconds);
  }
  const VmPin vm = TRY(vms_.find(plan.vm_id));
  TRY(vm->wait_created(call));
  const MemoryView memory = TRY(vm->memory_view());
  ExportOffer offer;
  offer.header.memory_bytes = memory.memory_bytes;
  std::vector<Fd> files;
  if (memory.is_private || plan.is_frozen) {
    Stopwatch stopwatch;
    SavedVm saved = TRY(vm->save({}, call, stopwatch));
    offer.stopped_us = saved.stopped_us;
    const SavedMemory layer = TRY(SavedMemory::open(saved, memory.memory_bytes, call));
    offer.header.layer_page_count = count_bits(layer.changed_pages());
    offer.header.has_layer = saved.layer.has_value();
    files.push_back(TRY(reopen_for_reading(saved.memory.ref())));
    if (saved.layer) {
      files.push_back(TRY(reopen_for_reading(saved.layer->memory.ref())));
      files.push_back(TRY(reopen_for_reading(saved.layer->pages.ref())));
    }
  } else {
    offer.header.is_live = true;
    files.push_back(TRY(vm->open_memory(call)));
  }
  offer.socket_path =
      TRY(exports_.offer(offer.header, std::move(files), std::chrono::seconds(seconds)));
  return offer;
}

Result<UsagePage> MemoryManager::usage(size_t page_size, const std::string& page_token) {
  const size_t count = TRY(checked_page(page_size, page_token));
  UsagePage page;
  const std::vector<VmPin> pins = vms_.pins(page_token, count + 1);
  std::map<FileIdentity, MemoryBase> bases;
  for (const VmPin& vm : std::span(pins).first(std::min(count, pins.size()))) {
    const auto memory = vm->memory_view();
    if (!memory) continue;
    if (memory->is_private) bases.emplace(memory->file, base_of(*memory, 0));
    if (auto usage = find_usage(*memory)) page.usages.push_back(*std::move(usage));
  }
  if (pins.size() > count) page.next_page_token = pins[count - 1]->identity().id;
  if (bases.empty()) return page;
  const std::map<FileIdentity, uint32_t> counts = count_bases();
  for (auto& [file, base] : bases) {
    const auto found = counts.find(file);
    // One that ended just now is not counted any more.
    base.vm_count = found == counts.end() ? 0 : found->second;
    page.bases.push_back(std::move(base));
  }
  return page;
}

}  // namespace mayfly::daemon
