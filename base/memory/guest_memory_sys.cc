// SPDX-License-Identifier: Apache-2.0
#include "base/memory/guest_memory.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <sys/mman.h>
#include <unistd.h>

namespace mayfly {
namespace {

constexpr uint64_t kPageSize = kGuestPageBytes;
constexpr uint64_t kHugePageSize = kChunkBytes;
constexpr uint64_t kMaxSize = uint64_t{1} << 42;

}  // namespace

void GuestSpan::zero(uint64_t offset, uint64_t size_bytes) const {
  if (size_bytes == 0) return;
  // SAFETY: as in read(), in the header.
  std::memset(at(offset, size_bytes), 0, size_bytes);
  forget_memory();
}

bool GuestSpan::equals(uint64_t offset, std::span<const std::byte> bytes) const {
  if (bytes.empty()) return true;
  // SAFETY: as in read().
  const bool same = std::memcmp(at(offset, bytes.size()), bytes.data(), bytes.size()) == 0;
  forget_memory();
  return same;
}

GuestSpan GuestSpan::whole_pages() const {
  const auto start = std::bit_cast<uintptr_t>(host_);
  const uint64_t skipped = (kPageSize - start % kPageSize) % kPageSize;
  if (size_ < skipped + kPageSize) return {};
  const uint64_t size = size_ - skipped;
  return subspan(skipped, size - size % kPageSize);
}

Result<GuestMemory> GuestMemory::create(FdRef file, uint64_t size_bytes, MemorySharing sharing) {
  if (size_bytes == 0 || size_bytes % kPageSize != 0 || size_bytes > kMaxSize) {
    return fail({Code::kInvalidArgument, "MEMORY_SIZE"},
                "memory: %llu bytes is not a multiple of 4096 between 4096 and 2^42",
                static_cast<unsigned long long>(size_bytes));
  }
  const uint64_t file_bytes = TRY(file_size(file));
  if (file_bytes < size_bytes) {
    return fail({Code::kInvalidArgument, "MEMORY_FILE_TOO_SHORT"},
                "memory: the file holds %llu bytes, the guest wants %llu",
                static_cast<unsigned long long>(file_bytes),
                static_cast<unsigned long long>(size_bytes));
  }

  GuestMemory memory;
  memory.sharing_ = sharing;
  memory.size_ = size_bytes;
  const uint64_t low = std::min(size_bytes, kLowRamEnd.value);
  const uint64_t high = size_bytes - low;
  const uint64_t span = high == 0 ? low : kHighRamStart.value + high;
  memory.reserved_ = span + kHugePageSize;
  // SAFETY: a fresh, inaccessible reservation; nothing else uses it.
  void* reservation = ::mmap(nullptr, memory.reserved_, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reservation == MAP_FAILED) {
    memory.reserved_ = 0;
    return fail_errno({Code::kResourceExhausted, "MEMORY_RESERVE"}, errno,
                      "memory: reserve %llu bytes of address space",
                      static_cast<unsigned long long>(span));
  }
  // Aligned, so that huge pages fit; the slack at both ends goes back.
  const auto start = std::bit_cast<uintptr_t>(reservation);
  const uintptr_t aligned = (start + kHugePageSize - 1) & ~(kHugePageSize - 1);
  const uintptr_t end = start + memory.reserved_;
  const uintptr_t used_end = aligned + ((span + kPageSize - 1) & ~(kPageSize - 1));
  // SAFETY: both pieces are inside our own reservation, outside [aligned, used_end).
  if (aligned != start) ::munmap(reservation, aligned - start);
  if (end != used_end) ::munmap(std::bit_cast<void*>(used_end), end - used_end);
  memory.base_ = std::bit_cast<std::byte*>(aligned);
  memory.reserved_ = used_end - aligned;

  memory.regions_[memory.region_count_++] = {Gpa{0}, low, aligned, 0};
  if (high != 0) {
    memory.regions_[memory.region_count_++] = {kHighRamStart, high, aligned + kHighRamStart.value,
                                               low};
  }
  TRY(memory.map(file));
  return memory;
}

Result<> GuestMemory::map(FdRef file) const {
  // Without a reservation: how much of a private RAM is ever written nobody knows.
  const int flags = sharing_ == MemorySharing::kShared ? MAP_SHARED : MAP_PRIVATE | MAP_NORESERVE;
  for (const Region& region : regions()) {
    // SAFETY: MAP_FIXED inside our own reservation.
    void* mapped =
        ::mmap(std::bit_cast<void*>(region.host_address), region.size, PROT_READ | PROT_WRITE,
               flags | MAP_FIXED, file.number(), static_cast<off_t>(region.file_offset));
    if (mapped == MAP_FAILED) {
      return fail_errno({Code::kResourceExhausted, "MEMORY_MAP"}, errno, "memory: map %llu bytes",
                        static_cast<unsigned long long>(region.size));
    }
    // Of a private mapping the file's pages are what they are. A kernel without huge pages says
    // EINVAL, and RAM is the same without them.
    // SAFETY: advice on what was mapped just now.
    if (sharing_ == MemorySharing::kShared) ::madvise(mapped, region.size, MADV_HUGEPAGE);
  }
  return {};
}

Result<> GuestMemory::copy_chunks(FdRef file, std::span<const ChunkRun> runs) {
  CHECK(sharing_ == MemorySharing::kPrivate && copied_.empty());
  const uint64_t chunks = (size_ + kChunkBytes - 1) / kChunkBytes;
  for (const ChunkRun& run : runs) {
    CHECK(run.count <= chunks && run.first <= chunks - run.count);
    const uint64_t begin = run.first * kChunkBytes;
    const uint64_t end = std::min(begin + run.count * kChunkBytes, size_);
    for (const Region& region : regions()) {
      const uint64_t from = std::max(begin, region.file_offset);
      const uint64_t to = std::min(end, region.file_offset + region.size);
      if (from < to) TRY(copy_piece(file, from, to - from));
    }
  }
  copied_.assign(runs.begin(), runs.end());
  return {};
}

Result<> GuestMemory::copy_piece(FdRef file, uint64_t offset, uint64_t size_bytes) const {
  const auto region = std::ranges::find_if(regions(), [&](const Region& each) {
    return offset >= each.file_offset && offset - each.file_offset < each.size;
  });
  void* const address = std::bit_cast<void*>(region->host_address + offset - region->file_offset);
  // SAFETY: MAP_FIXED inside one region of our own reservation, as copy_chunks() has seen to.
  void* mapped = ::mmap(address, size_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (mapped == MAP_FAILED) {
    return fail_errno({Code::kResourceExhausted, "MEMORY_MAP"}, errno, "memory: map %llu bytes",
                      static_cast<unsigned long long>(size_bytes));
  }
  // SAFETY: advice on what was mapped just now; without huge pages the copy is the same.
  ::madvise(mapped, size_bytes, MADV_HUGEPAGE);
  // SAFETY: fresh memory of that size, which only we know yet.
  return pread_exact(file, {static_cast<std::byte*>(mapped), static_cast<size_t>(size_bytes)},
                     offset);
}

Result<> GuestMemory::leave(FdRef file) {
  CHECK(sharing_ == MemorySharing::kShared);
  sharing_ = MemorySharing::kPrivate;
  return map(file);
}

Result<> GuestMemory::release(const GuestSpan& pages) const {
  CHECK(std::bit_cast<uintptr_t>(pages.host_) % kPageSize == 0 && pages.size_ % kPageSize == 0);
  // A private mapping has pages of its own to give; the file's are others', too.
  const int advice = sharing_ == MemorySharing::kShared ? MADV_REMOVE : MADV_DONTNEED;
  // SAFETY: a span of this RAM's, which stays mapped; nobody holds a reference into it.
  if (pages.size_ == 0 || ::madvise(pages.host_, pages.size_, advice) == 0) return {};
  return fail_errno({Code::kUnavailable, "MEMORY_RELEASE"}, errno, "memory: release %llu bytes",
                    static_cast<unsigned long long>(pages.size_));
}

GuestMemory::GuestMemory(GuestMemory&& other) noexcept
    : sharing_(other.sharing_),
      base_(std::exchange(other.base_, nullptr)),
      reserved_(std::exchange(other.reserved_, 0)),
      size_(other.size_),
      regions_{other.regions_[0], other.regions_[1]},
      region_count_(other.region_count_),
      copied_(std::move(other.copied_)) {}

GuestMemory::~GuestMemory() {
  // SAFETY: our own reservation; spans do not outlive their memory.
  if (base_ != nullptr) ::munmap(base_, reserved_);
}

std::unexpected<Error> GuestMemory::not_ram(const GuestRange& range) {
  return fail({Code::kOutOfRange, "GUEST_RANGE"},
              "guest range of %llu bytes at 0x%llx is not in RAM",
              static_cast<unsigned long long>(range.size),
              static_cast<unsigned long long>(range.start.value));
}

}  // namespace mayfly
