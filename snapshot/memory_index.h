// SPDX-License-Identifier: Apache-2.0
//
// The part `memory.index`: which pages of guest RAM the memory file holds, and a digest for each
// chunk of 2 MiB, so that chunks can be checked apart. RAM is counted by its offset (that of the
// memfd), not by guest-physical address.
//
// Pure; any thread.
#pragma once

#include "base/error.h"
#include "snapshot/digest.h"
#include "snapshot/manifest.h"
#include "snapshot/sealed.h"

#include <algorithm>
#include <bitset>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace mayfly::snapshot {

inline constexpr size_t kChunkPages = 512;
inline constexpr uint64_t kChunkBytes = uint64_t{kChunkPages} * kPageBytes;
inline constexpr size_t kMaxChunks = kMaxMemoryBytes / kChunkBytes;
/// 26 bytes for a chunk that is whole, 540 for the most scattered one.
inline constexpr uint64_t kMaxIndexBytes = uint64_t{256} << 20;

/// The part's limit for this much RAM, so that a small machine's index cannot be a large one.
constexpr uint64_t max_index_bytes(uint64_t memory_bytes) {
  return std::min(kMaxIndexBytes, 4096 + (memory_bytes / kChunkBytes + 1) * 1024);
}

/// Of one chunk's frame in a compressed memory: somewhat more than zstd makes of the worst chunk.
inline constexpr uint32_t kMaxFrameBytes = kChunkBytes + kChunkBytes / 128;
/// Of the part `memory.zst`.
constexpr uint64_t max_compressed_bytes(uint64_t memory_bytes) {
  return (memory_bytes / kChunkBytes + 1) * kMaxFrameBytes;
}

/// Pages of one chunk.
using PageMap = std::bitset<kChunkPages>;

/// A chunk's stored pages in memory.zst.
struct Frame {
  uint32_t size_bytes = 0;
  /// Of the bytes in the file.
  Digest digest;
  /// Not on the wire: frames follow each other.
  uint64_t offset = 0;

  friend bool operator==(const Frame&, const Frame&) = default;
};

struct Chunk {
  uint32_t number = 0;
  /// Of the stored pages, one after the other.
  Digest digest;
  /// In the memory file.
  PageMap stored;
  /// All zero, in a diff; in a full index everything that is not stored is zero.
  PageMap zero;
  /// In a compressed memory, of a chunk that stores pages.
  std::optional<Frame> frame = {};

  friend bool operator==(const Chunk&, const Chunk&) = default;
};

struct MemoryIndex {
  uint64_t memory_bytes = 0;
  /// In a diff, the digest of the index it goes over. Zeroes in a full one.
  Digest parent_digest;
  /// By number.
  std::vector<Chunk> chunks;

  bool is_diff() const { return parent_digest != Digest{}; }
  /// Of all frames.
  uint64_t frames_bytes() const;
  /// Every chunk that stores pages has a frame, or none has.
  bool has_frames(bool wanted) const;
  /// The line of chunk `number`, or null where it holds nothing.
  const Chunk* find(uint32_t number) const;

  friend bool operator==(const MemoryIndex&, const MemoryIndex&) = default;
};

/// How many chunks RAM has, and how many pages are in one: the last may be smaller.
constexpr uint32_t chunk_count(uint64_t memory_bytes) {
  return static_cast<uint32_t>((memory_bytes + kChunkBytes - 1) / kChunkBytes);
}
constexpr size_t pages_in_chunk(uint64_t memory_bytes, uint32_t number) {
  const uint64_t left = memory_bytes - number * kChunkBytes;
  return static_cast<size_t>(std::min(left, kChunkBytes) / kPageBytes);
}

/// A run of pages in a chunk.
struct PageRun {
  size_t first;
  size_t pages;
};
/// The first run of `map` at or after page `from`; no pages where there is none.
PageRun next_run(const PageMap& map, size_t from);

/// The whole part. kResourceExhausted where memory is so scattered that it would be above
/// kMaxIndexBytes.
Result<Sealed> encode_index(const MemoryIndex& index);

/// Hostile bytes: the whole part. Runs are sorted, apart, page for page inside `memory_bytes`.
struct ReadIndex {
  MemoryIndex index;
  Digest digest;
};
Result<ReadIndex> decode_index(std::span<const std::byte> file, uint64_t memory_bytes);

}  // namespace mayfly::snapshot
