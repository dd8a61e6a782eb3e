// SPDX-License-Identifier: Apache-2.0
#include "daemon/memory_pages.h"

#include "snapshot/manifest.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

#include <unistd.h>

namespace mayfly::daemon {

namespace {

using snapshot::kPageBytes;

bool has(std::string_view bits, uint64_t page) { return (bits[page / 8] >> page % 8 & 1) != 0; }

std::unexpected<Error> contradicts(const char* what, uint64_t page) {
  return fail({Code::kUnavailable, "MONITOR_REPLY"}, "the monitor named page %llu %s",
              static_cast<unsigned long long>(page), what);
}

}  // namespace

const std::string& PageStretch::bits(PageKind kind) const {
  switch (kind) {
    case PageKind::kChanged:
      return pages.own;
    case PageKind::kResident:
      return pages.resident;
    case PageKind::kSwapped:
      return pages.swapped;
    case PageKind::kZero:
      break;
  }
  return pages.zero;
}

Result<> check_pages(const MonitorPages& pages, const PageQuery& query) {
  const size_t bytes = (query.page_count + 7) / 8;
  const std::pair<const char*, const std::string*> sets[] = {{"resident", &pages.resident},
                                                             {"own", &pages.own},
                                                             {"swapped", &pages.swapped},
                                                             {"zero", &pages.zero}};
  for (const auto& [name, bits] : sets) {
    const size_t wanted = bits == &pages.zero && !query.find_zero ? 0 : bytes;
    if (bits->size() != wanted) {
      return fail({Code::kUnavailable, "MONITOR_REPLY"},
                  "pages.%s: the monitor sent %zu bytes, where %zu belong", name, bits->size(),
                  wanted);
    }
    for (uint64_t page = query.page_count; page < bits->size() * 8; ++page) {
      if (has(*bits, page)) return contradicts("beyond those that were asked for", page);
    }
  }
  for (size_t i = 0; i < bytes; ++i) {
    if ((pages.swapped[i] & pages.resident[i]) != 0) {
      return contradicts("both swapped out and resident, or one near it", i * 8);
    }
    if (query.find_zero && (pages.zero[i] & ~pages.resident[i]) != 0) {
      return contradicts("zero but not resident, or one near it", i * 8);
    }
  }
  return {};
}

std::vector<PageRun> runs_of(std::string_view bits, uint64_t first_page, uint32_t count) {
  std::vector<PageRun> runs;
  for (uint64_t page = 0; page < count; ++page) {
    if (!has(bits, page)) continue;
    const uint64_t begin = page;
    while (page < count && has(bits, page)) ++page;
    runs.push_back({first_page + begin, page - begin});
  }
  return runs;
}

uint64_t count_bits(std::string_view bits) {
  uint64_t count = 0;
  for (const char byte : bits) {
    count += static_cast<uint64_t>(std::popcount(static_cast<unsigned char>(byte)));
  }
  return count;
}

uint64_t count_bits(std::span<const uint64_t> words) {
  uint64_t count = 0;
  for (const uint64_t word : words) count += static_cast<uint64_t>(std::popcount(word));
  return count;
}

Result<std::string> allocated_pages(FdRef file, uint64_t first_page, uint32_t count) {
  std::string bits((count + 7) / 8, '\0');
  const uint64_t end = (first_page + count) * kPageBytes;
  for (uint64_t at = first_page * kPageBytes; at < end;) {
    const off_t data = ::lseek(file.number(), static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;
    const off_t hole = data < 0 ? data : ::lseek(file.number(), data, SEEK_HOLE);
    if (hole < 0) {
      return fail_errno({Code::kUnavailable, "MEMORY_FILE"}, errno, "find what is in the memory");
    }
    // Bytes of the file may come and go between the two.
    const uint64_t from = std::min(static_cast<uint64_t>(data), end) / kPageBytes;
    const uint64_t to = (std::min(static_cast<uint64_t>(hole), end) + kPageBytes - 1) / kPageBytes;
    for (uint64_t page = std::max(from, first_page) - first_page; page < to - first_page; ++page) {
      bits[page / 8] = static_cast<char>(bits[page / 8] | 1 << page % 8);
    }
    at = std::max(static_cast<uint64_t>(hole), at + kPageBytes);
  }
  return bits;
}

}  // namespace mayfly::daemon
