// SPDX-License-Identifier: Apache-2.0
#include "snapshot/ram_source.h"

#include <algorithm>
#include <cerrno>

#include <unistd.h>

namespace mayfly::snapshot {

Result<uint64_t> next_data_in(FdRef file, uint64_t offset, uint64_t end) {
  const off_t found = ::lseek(file.number(), static_cast<off_t>(offset), SEEK_DATA);
  if (found >= 0) return std::min(static_cast<uint64_t>(found), end);
  if (errno == ENXIO) return end;
  return fail_errno({Code::kUnavailable, "SNAPSHOT_IO"}, errno, "memory: find data");
}

Result<> MemfdRam::read(uint64_t offset, std::span<std::byte> out) {
  return pread_exact(memfd_, out, offset);
}

Result<uint64_t> MemfdRam::next_data(uint64_t offset) {
  return next_data_in(memfd_, offset, size_);
}

Result<> MappedRam::read(uint64_t offset, std::span<std::byte> out) {
  for (const GuestMemory::Region& region : memory_.regions()) {
    if (offset < region.file_offset || offset - region.file_offset >= region.size) continue;
    const uint64_t inside = offset - region.file_offset;
    const uint64_t size = std::min<uint64_t>(out.size(), region.size - inside);
    const GuestSpan span = TRY(memory_.view({Gpa{region.start.value + inside}, size}));
    span.read(0, out.first(size));
    out = out.subspan(size);
    offset += size;
    if (out.empty()) return {};
  }
  return fail({Code::kOutOfRange, "RAM_OFFSET"}, "RAM ends at byte %llu, %zu more were wanted",
              static_cast<unsigned long long>(offset), out.size());
}

}  // namespace mayfly::snapshot
