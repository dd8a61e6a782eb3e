// SPDX-License-Identifier: Apache-2.0
//
// Guest RAM. The only place where a guest-physical address becomes host memory: everything else
// holds a Gpa, a GuestRange or a GuestSpan, and never a pointer (style rule 13).
//
// The guest writes this memory whenever it likes, from other threads. Every read here copies out
// exactly once; callers validate and use the copy. Bounds are checked when a range becomes a span,
// and again at each access.
//
// GuestMemory is immutable after create() but for copy_chunks() and leave(), and may be used from
// any thread. A GuestSpan borrows it.
//
// Layout (x86): RAM fills [0, 3 GiB) first and goes on at 4 GiB; the gap holds device registers.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include <sys/uio.h>

namespace mayfly {

/// A guest-physical address, in bytes.
struct Gpa {
  uint64_t value = 0;

  friend constexpr auto operator<=>(Gpa, Gpa) = default;
};

/// `size` bytes from `start`. May be any garbage: view() decides.
struct GuestRange {
  Gpa start;
  uint64_t size = 0;
};

/// The end of RAM below the gap, and where RAM goes on.
inline constexpr Gpa kLowRamEnd{0xc000'0000};
inline constexpr Gpa kHighRamStart{0x1'0000'0000};

/// RAM's unit on the host.
inline constexpr uint64_t kGuestPageBytes = 4096;

/// A piece of guest RAM that lies wholly inside one region. Offsets and sizes are checked: an
/// access past the end is our own bug and CHECKs, so callers compare with size() first.
class GuestSpan {
 public:
  GuestSpan() = default;

  uint64_t size() const { return size_; }

  /// Copies out / in / clears. `offset + bytes` must lie inside.
  void read(uint64_t offset, std::span<std::byte> out) const {
    if (out.empty()) return;
    // SAFETY: at() checked the range; the mapping lives as long as the GuestMemory this span
    // borrows.
    std::memcpy(out.data(), at(offset, out.size()), out.size());
    forget_memory();
  }
  void write(uint64_t offset, std::span<const std::byte> in) const {
    if (in.empty()) return;
    // SAFETY: as in read().
    std::memcpy(at(offset, in.size()), in.data(), in.size());
    forget_memory();
  }
  void zero(uint64_t offset, uint64_t size_bytes) const;

  template <typename T>
    requires std::is_trivially_copyable_v<T>
  T load(uint64_t offset) const {
    T value;
    read(offset, std::as_writable_bytes(std::span<T, 1>(&value, 1)));
    return value;
  }
  template <typename T>
    requires std::is_trivially_copyable_v<T>
  void store(uint64_t offset, const T& value) const {
    write(offset, std::as_bytes(std::span<const T, 1>(&value, 1)));
  }

  /// Whether it holds `bytes` at `offset`.
  bool equals(uint64_t offset, std::span<const std::byte> bytes) const;

  /// Ring indices: single aligned 16-bit words (virtio 1.2, 2.7.13). The offset must be even.
  uint16_t load_acquire_u16(uint64_t offset) const {
    // SAFETY: in range and aligned by word_at(); the guest writes it with plain 16-bit stores.
    return __atomic_load_n(word_at(offset), __ATOMIC_ACQUIRE);
  }
  void store_release_u16(uint64_t offset, uint16_t value) const {
    // SAFETY: as in load_acquire_u16().
    __atomic_store_n(word_at(offset), value, __ATOMIC_RELEASE);
  }

  /// The part [offset, offset + size_bytes).
  GuestSpan subspan(uint64_t offset, uint64_t size_bytes) const {
    return GuestSpan(at(offset, size_bytes), size_bytes);
  }

  /// The pages of kGuestPageBytes that lie wholly in it; empty where there are none.
  GuestSpan whole_pages() const;

  /// For readv, writev and the ring only: the kernel copies, we never look through it.
  iovec as_iovec() const { return {host_, static_cast<size_t>(size_)}; }

 private:
  friend class GuestMemory;
  GuestSpan(std::byte* host, uint64_t size) : host_(host), size_(size) {}
  std::byte* at(uint64_t offset, uint64_t size_bytes) const {
    CHECK(size_bytes <= size_ && offset <= size_ - size_bytes);
    return host_ + offset;
  }
  uint16_t* word_at(uint64_t offset) const {
    std::byte* word = at(offset, sizeof(uint16_t));
    CHECK(std::bit_cast<uintptr_t>(word) % alignof(uint16_t) == 0);
    return static_cast<uint16_t*>(static_cast<void*>(word));
  }
  // Keeps the compiler from reading guest memory a second time instead of keeping the copy.
  static void forget_memory() { std::atomic_signal_fence(std::memory_order_seq_cst); }

  std::byte* host_ = nullptr;
  uint64_t size_ = 0;
};

/// A huge page's worth of RAM, by its offset in the file that RAM is made from.
inline constexpr uint64_t kChunkBytes = uint64_t{2} << 20;

/// Some chunks that follow one another. The last one of RAM may be shorter than the others.
struct ChunkRun {
  uint32_t first = 0;
  uint32_t count = 0;

  friend bool operator==(const ChunkRun&, const ChunkRun&) = default;
};

/// Who sees what is written to guest RAM: the file it was made from, or this process alone.
enum class MemorySharing : uint8_t { kShared, kPrivate };

class GuestMemory {
 public:
  /// One contiguous piece of RAM, as KVM's memory slots and the guest's memory map want it.
  struct Region {
    Gpa start;
    uint64_t size;
    uint64_t host_address;
    uint64_t file_offset;
  };

  /// Maps `file` (at least `size_bytes` long) at an address range reserved once, so that what is
  /// mapped there can change later without KVM being told. `size_bytes` is a multiple of 4096. A
  /// file that is mapped private need not be writable. One that is mapped shared gets huge pages
  /// where the host gives them to who asks.
  static Result<GuestMemory> create(FdRef file, uint64_t size_bytes,
                                    MemorySharing sharing = MemorySharing::kShared);

  /// Gives chunks of private RAM, which nobody has touched yet, pages of their own with what
  /// `file`, create()'s, has there: huge ones where the host gives them. The runs are sorted, apart
  /// and inside RAM: `first` and `count` of each were checked. After an Error RAM is not the
  /// file's.
  Result<> copy_chunks(FdRef file, std::span<const ChunkRun> runs);
  /// What was copied so: private pages that nobody need have written.
  std::span<const ChunkRun> copied_chunks() const { return copied_; }

  /// Shared RAM becomes private: `file`, create()'s, keeps what is in it now and is never written
  /// again. Nobody may write RAM meanwhile. After an Error there may be holes in RAM, which nobody
  /// may touch.
  Result<> leave(FdRef file);
  MemorySharing sharing() const { return sharing_; }

  /// The guest does without what is in these whole pages, and the host may have their memory. They
  /// stay RAM: who touches them next finds zeroes in shared RAM, of which the file gets a hole, and
  /// in private RAM what the file has there (of a copied chunk: zeroes). Not of RAM that is filled
  /// by faults, which would wait for their content once more.
  Result<> release(const GuestSpan& pages) const;

  ~GuestMemory();
  GuestMemory(GuestMemory&& other) noexcept;
  GuestMemory(const GuestMemory&) = delete;
  GuestMemory& operator=(const GuestMemory&) = delete;

  uint64_t size() const { return size_; }
  std::span<const Region> regions() const { return {regions_, region_count_}; }

  /// The range as a span, or kOutOfRange where any byte of it is not RAM. Size 0 is an empty span.
  Result<GuestSpan> view(GuestRange range) const {
    for (const Region& region : regions()) {
      if (range.start < region.start) continue;
      const uint64_t offset = range.start.value - region.start.value;
      if (range.size <= region.size && offset <= region.size - range.size) {
        return GuestSpan(base_ + range.start.value, range.size);
      }
    }
    return not_ram(range);
  }

 private:
  GuestMemory() = default;
  static std::unexpected<Error> not_ram(const GuestRange& range);
  Result<> map(FdRef file) const;
  Result<> copy_piece(FdRef file, uint64_t offset, uint64_t size_bytes) const;

  MemorySharing sharing_ = MemorySharing::kShared;
  std::byte* base_ = nullptr;  // host address of Gpa 0
  uint64_t reserved_ = 0;
  uint64_t size_ = 0;
  Region regions_[2] = {};
  size_t region_count_ = 0;
  std::vector<ChunkRun> copied_;
};

}  // namespace mayfly
