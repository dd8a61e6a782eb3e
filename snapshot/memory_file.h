// SPDX-License-Identifier: Apache-2.0
//
// The part `memory`: guest RAM as a sparse file, in which a page's offset is its offset in RAM, so
// that it can be mapped as it is. Pages that the index does not call stored are holes, or read as
// zero. Or the part `memory.zst`: a frame of zstd for each chunk that stores pages. Works a chunk
// of 2 MiB at a time: memory used does not depend on the size of RAM.
//
// A full disk is kResourceExhausted NO_SPACE.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "snapshot/memory_index.h"
#include "snapshot/ram_source.h"
#include "snapshot/zstd_frame.h"

#include <cstdint>
#include <span>
#include <vector>

namespace mayfly::snapshot {

/// What to write. Everything outlives the call.
struct MemoryJob {
  /// Empty; becomes `memory_bytes` long, or as long as its frames.
  FdRef file;
  RamSource& ram;
  uint64_t memory_bytes = 0;
  /// A diff's: the digest of the parent's index. Zeroes for a full memory.
  Digest parent_digest = {};
  /// A diff's: KVM's dirty bitmap, a bit a page, from RAM offset 0. Not looked at for a full
  /// memory.
  std::span<const uint64_t> dirty = {};
  /// The part is memory.zst.
  bool is_compressed = false;
};

struct WrittenMemory {
  MemoryIndex index;
  uint64_t stored_pages = 0;
  /// Pages that were looked at and found zero: they cost no bytes.
  uint64_t zero_pages = 0;
};

/// Writes the pages that are not zero: all, or those that are dirty. Not synced.
Result<WrittenMemory> write_memory(const MemoryJob& job);

/// Reads the whole file: kDataLoss MEMORY_DAMAGED with the first chunk that is not what the index
/// says, or that holds bytes where nothing is stored.
Result<> verify_memory(FdRef file, const MemoryIndex& index);

/// One memory file and its index; both outlive what is made of them.
struct MemoryLayer {
  FdRef file;
  const MemoryIndex* index = nullptr;
};

/// Chunks out of layers, one at a time; what was loaded is there until the next. Every page of it
/// was checked against its digest first, as this very copy.
class ChunkLoader {
 public:
  ChunkLoader() : pages_(kChunkBytes), layer_pages_(kChunkBytes) {}

  /// Lowest layer first; all of one size, which has a chunk of this number.
  Result<> load(std::span<const MemoryLayer> layers, uint32_t number);

  /// Of the whole chunk; what no layer has is zero.
  std::span<const std::byte> pages() const { return pages_; }
  /// Which of them are not known to be zero, and which a diff says are zero.
  const PageMap& stored() const { return stored_; }
  const PageMap& zero() const { return zero_; }

 private:
  std::vector<std::byte> pages_;
  std::vector<std::byte> layer_pages_;
  FrameReader frames_;
  Hasher hasher_;
  PageMap stored_;
  PageMap zero_;
};

/// A full memory and diffs over it, or diffs alone, as one RAM. Every page that is handed out was
/// checked against its digest first, as the very copy that is handed out.
class LayeredMemory final : public RamSource {
 public:
  /// Lowest first; at least one. All of one size, as Chain::open() has seen to.
  explicit LayeredMemory(std::vector<MemoryLayer> layers);

  uint64_t size() const { return layers_[0].index->memory_bytes; }

  // RamSource. What no layer has is zero.
  Result<> read(uint64_t offset, std::span<std::byte> out) override;
  Result<uint64_t> next_data(uint64_t offset) override;

  /// The pages that any layer knows about, as MemoryJob::dirty wants them.
  std::vector<uint64_t> known_pages() const;

  /// Makes `memfd` (size() bytes) the memory. Over a full layer it must be empty; diffs alone go
  /// over what is in it.
  Result<> apply_to(FdRef memfd);

 private:
  Result<> load(uint32_t number);
  Result<> apply_chunk(FdRef memfd);

  std::vector<MemoryLayer> layers_;
  ChunkLoader chunk_;
  // The chunk that was loaded last.
  static constexpr uint32_t kNone = UINT32_MAX;
  uint32_t loaded_ = kNone;
};

}  // namespace mayfly::snapshot
