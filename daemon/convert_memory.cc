// SPDX-License-Identifier: Apache-2.0
#include "daemon/convert_memory.h"

#include "base/memory/guest_memory.h"
#include "snapshot/manifest.h"

#include <algorithm>

namespace mayfly::daemon {

namespace {

std::string id_of(const FileIdentity& file) {
  return format("%llx-%llx", static_cast<unsigned long long>(file.device),
                static_cast<unsigned long long>(file.inode));
}

void add_region(uint64_t address, uint64_t size, uint64_t offset, v1::DescribeMemoryResponse* out) {
  v1::MemoryRegion& region = *out->add_regions();
  region.set_guest_address(address);
  region.set_size_bytes(size);
  region.set_offset_bytes(offset);
}

void to_proto(const MemoryBase& in, v1::MemoryBase* out) {
  out->set_base_id(id_of(in.file));
  out->set_origin(in.origin);
  out->set_sealed(in.is_sealed);
  out->set_allocated_bytes(in.allocated_bytes);
  out->set_vm_count(in.vm_count);
}

void to_proto(const MemoryUsage& in, v1::MemoryUsage* out) {
  out->set_vm_id(in.vm_id);
  out->set_unique_bytes(in.unique_bytes);
  out->set_shared_bytes(in.shared_bytes);
  out->set_swapped_bytes(in.swapped_bytes);
  if (in.base) out->set_base_id(id_of(*in.base));
}

}  // namespace

Result<PagesPlan> from_proto(const v1::QueryPagesRequest& in) {
  PagesPlan plan{.vm_id = in.vm_id(),
                 .first_page = in.first_page(),
                 .page_count = in.page_count(),
                 .kinds = {}};
  for (const int kind : in.kinds()) {
    const auto wanted = static_cast<PageKind>(kind);
    if (kind < 1 || kind > static_cast<int>(kPageKinds)) {
      return fail({Code::kInvalidArgument, "PAGE_KIND"}, "kinds: %d is not a kind of pages", kind);
    }
    if (std::ranges::find(plan.kinds, wanted) != plan.kinds.end()) {
      return fail({Code::kInvalidArgument, "PAGE_KIND"}, "kinds: %d is there twice", kind);
    }
    plan.kinds.push_back(wanted);
  }
  if (plan.kinds.empty()) {
    return fail({Code::kInvalidArgument, "PAGE_KIND"}, "kinds: is empty; say which pages");
  }
  return plan;
}

ExportPlan from_proto(const v1::ExportMemoryRequest& in) {
  return {.vm_id = in.vm_id(), .is_frozen = in.frozen(), .timeout_s = in.timeout_s()};
}

void to_proto(const MemoryDescription& in, v1::DescribeMemoryResponse* out) {
  const MemoryView& memory = in.memory;
  out->set_vm_id(memory.vm_id);
  out->set_incarnation(memory.incarnation);
  out->set_state(static_cast<v1::VmState>(memory.state));
  out->set_size_bytes(memory.memory_bytes);
  out->set_page_bytes(snapshot::kPageBytes);
  const uint64_t low = std::min(memory.memory_bytes, kLowRamEnd.value);
  add_region(0, low, 0, out);
  if (memory.memory_bytes > low)
    add_region(kHighRamStart.value, memory.memory_bytes - low, low, out);
  out->set_sharing(memory.is_private ? v1::MEMORY_SHARING_OVER_BASE : v1::MEMORY_SHARING_OWN);
  if (in.base) to_proto(*in.base, out->mutable_base());
  out->set_block_bytes(memory.block_bytes);
  if (in.usage) to_proto(*in.usage, out->mutable_usage());
  if (!in.pages) return;
  out->mutable_pages()->set_resident(in.pages->resident);
  out->mutable_pages()->set_changed(in.pages->changed);
  out->mutable_pages()->set_swapped(in.pages->swapped);
}

void to_proto(const PageStretch& in, const std::vector<PageKind>& kinds,
              v1::QueryPagesResponse* out) {
  out->set_first_page(in.first_page);
  out->set_page_count(in.page_count);
  out->set_state(static_cast<v1::VmState>(in.state));
  for (const PageKind kind : kinds) {
    v1::PageSet& set = *out->add_sets();
    set.set_kind(static_cast<v1::PageKind>(kind));
    uint64_t count = 0;
    for (const PageRun& run : runs_of(in.bits(kind), in.first_page, in.page_count)) {
      v1::PageRun& added = *set.add_runs();
      added.set_first_page(run.first_page);
      added.set_page_count(run.page_count);
      count += run.page_count;
    }
    set.set_page_count(count);
  }
}

void to_proto(const ExportOffer& in, v1::ExportMemoryResponse* out) {
  out->set_socket_path(in.socket_path);
  out->set_size_bytes(in.header.memory_bytes);
  out->set_live(in.header.is_live);
  out->set_layer_page_count(in.header.layer_page_count);
  out->set_stopped_us(in.stopped_us);
}

void to_proto(const UsagePage& in, v1::ListMemoryUsageResponse* out) {
  for (const MemoryUsage& usage : in.usages) to_proto(usage, out->add_usages());
  for (const MemoryBase& base : in.bases) to_proto(base, out->add_bases());
  out->set_next_page_token(in.next_page_token);
}

}  // namespace mayfly::daemon
