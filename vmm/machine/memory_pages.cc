// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/memory_pages.h"

#include "vmm/machine/pagemap.h"

#include <algorithm>
#include <array>

namespace mayfly {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kEntriesAtOnce = 4096;

Result<> check_range(const GuestMemory& memory, const PageQuery& query) {
  const uint32_t most = query.find_zero ? kMaxZeroQueryPages : kMaxQueryPages;
  if (query.page_count == 0 || query.page_count > most) {
    return fail({Code::kInvalidArgument, "PAGE_RANGE"},
                "get_pages.page_count: %u is not within 1 to %u", query.page_count, most);
  }
  const uint64_t pages = memory.size() / kPageBytes;
  if (query.page_count <= pages && query.first_page <= pages - query.page_count) return {};
  return fail({Code::kInvalidArgument, "PAGE_RANGE"},
              "get_pages: %u pages from %llu on go beyond the last of %llu", query.page_count,
              static_cast<unsigned long long>(query.first_page),
              static_cast<unsigned long long>(pages));
}

void set_bit(std::string& bits, uint64_t page) {
  bits[page / 8] = static_cast<char>(bits[page / 8] | 1 << page % 8);
}

bool is_zero(const GuestSpan& page) {
  std::array<uint64_t, kPageBytes / sizeof(uint64_t)> words;
  page.read(0, std::as_writable_bytes(std::span(words)));
  uint64_t any = 0;
  for (const uint64_t word : words) any |= word;
  return any == 0;
}

/// Pages of one region, at `at` among those that were asked for.
struct Stretch {
  const GuestMemory::Region& region;
  uint64_t first;  // in the region
  uint64_t count;
  uint64_t at;
};

Result<> look(const GuestMemory& memory, FdRef pagemap, const Stretch& stretch, bool find_zero,
              PageReport& report) {
  std::array<PagemapEntry, kEntriesAtOnce> buffer;
  for (uint64_t done = 0; done < stretch.count; done += buffer.size()) {
    const auto entries =
        std::span(buffer).first(std::min<uint64_t>(buffer.size(), stretch.count - done));
    const uint64_t offset = (stretch.first + done) * kPageBytes;
    TRY(read_pagemap(pagemap, stretch.region.host_address + offset, entries));
    for (uint64_t i = 0; i < entries.size(); ++i) {
      const uint64_t page = stretch.at + done + i;
      if (entries[i].is_private()) set_bit(report.own, page);
      if (entries[i].is_swapped()) set_bit(report.swapped, page);
      if (!entries[i].is_present()) continue;
      set_bit(report.resident, page);
      if (!find_zero) continue;
      const Gpa gpa{stretch.region.start.value + offset + i * kPageBytes};
      if (is_zero(TRY(memory.view({gpa, kPageBytes})))) set_bit(report.zero, page);
    }
  }
  return {};
}

}  // namespace

Result<PageReport> look_at_pages(const GuestMemory& memory, FdRef pagemap, const PageQuery& query) {
  TRY(check_range(memory, query));
  const std::string none((query.page_count + 7) / 8, '\0');
  PageReport report{.resident = none, .own = none, .swapped = none, .zero = none};
  if (!query.find_zero) report.zero.clear();
  const uint64_t end = query.first_page + query.page_count;
  for (const GuestMemory::Region& region : memory.regions()) {
    const uint64_t region_first = region.file_offset / kPageBytes;
    const uint64_t from = std::max(query.first_page, region_first);
    const uint64_t to = std::min(end, region_first + region.size / kPageBytes);
    if (from >= to) continue;
    TRY(look(memory, pagemap, {region, from - region_first, to - from, from - query.first_page},
             query.find_zero, report));
  }
  return report;
}

}  // namespace mayfly
