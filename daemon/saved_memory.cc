// SPDX-License-Identifier: Apache-2.0
#include "daemon/saved_memory.h"

#include "snapshot/manifest.h"

#include <algorithm>

namespace mayfly::daemon {

namespace {

using ull = unsigned long long;
using snapshot::kPageBytes;

Result<> check_size(const char* what, FdRef file, uint64_t wanted) {
  const uint64_t size = TRY(file_size(file));
  if (size == wanted) return {};
  return fail({Code::kUnavailable, "SAVED_LAYER"},
              "%s: the monitor wrote %llu bytes, where %llu belong", what, static_cast<ull>(size),
              static_cast<ull>(wanted));
}

}  // namespace

Result<SavedMemory> SavedMemory::open(const SavedVm& saved, uint64_t memory_bytes, const Call& call,
                                      Hook on_read) {
  SavedMemory memory(saved, memory_bytes, call, std::move(on_read));
  if (!saved.layer) return memory;
  const uint64_t pages = memory_bytes / kPageBytes;
  const uint64_t bitmap_bytes = (pages + 7) / 8;
  TRY(check_size("layer", saved.layer->memory.ref(), memory_bytes));
  TRY(check_size("layer's pages", saved.layer->pages.ref(), bitmap_bytes));
  memory.changed_.resize((pages + 63) / 64);
  TRY(pread_exact(saved.layer->pages.ref(),
                  std::as_writable_bytes(std::span(memory.changed_)).first(bitmap_bytes), 0));
  if (pages % 64 != 0 && memory.changed_.back() >> pages % 64 != 0) {
    return fail({Code::kUnavailable, "SAVED_LAYER"},
                "layer's pages: the monitor named a page beyond the last of %llu",
                static_cast<ull>(pages));
  }
  return memory;
}

Result<> SavedMemory::read(uint64_t offset, std::span<std::byte> out) {
  TRY(call_.check("writing the memory"));
  // Whole runs that come from one of the two.
  while (!out.empty()) {
    const uint64_t page = offset / kPageBytes;
    const bool changed = saved_.layer && is_changed(page);
    uint64_t end = page + 1;
    while (end * kPageBytes < offset + out.size() && (saved_.layer && is_changed(end)) == changed) {
      ++end;
    }
    const size_t size = std::min<uint64_t>(out.size(), end * kPageBytes - offset);
    const FdRef file = changed ? saved_.layer->memory.ref() : saved_.memory.ref();
    TRY(pread_exact(file, out.first(size), offset));
    out = out.subspan(size);
    offset += size;
  }
  if (on_read_) on_read_(offset);
  return {};
}

Result<uint64_t> SavedMemory::next_data(uint64_t offset) {
  const uint64_t below = TRY(snapshot::next_data_in(saved_.memory.ref(), offset, memory_bytes_));
  if (!saved_.layer) return below;
  return std::min(below,
                  TRY(snapshot::next_data_in(saved_.layer->memory.ref(), offset, memory_bytes_)));
}

}  // namespace mayfly::daemon
