// SPDX-License-Identifier: Apache-2.0
#include "snapshot/memory_index.h"

#include "base/wire_table.h"

#include <algorithm>

namespace mayfly::snapshot {
namespace {

// A run on the wire: its length, and below it what its pages are.
enum RunKind : uint32_t { kAbsent = 0, kStored = 1, kZero = 2 };
constexpr uint32_t kRunKindBits = 2;
constexpr uint32_t kRunKindMask = (1u << kRunKindBits) - 1;

struct ChunkLine {
  uint32_t number = 0;
  Digest digest;
  std::vector<uint32_t> runs;
  std::optional<Frame> frame;
};

struct IndexMessage {
  uint64_t memory_bytes = 0;
  Digest parent_digest;
  std::vector<ChunkLine> chunks;
};

RunKind kind_of(const Chunk& chunk, size_t page) {
  return chunk.stored[page] ? kStored : chunk.zero[page] ? kZero : kAbsent;
}

ChunkLine line_of(const Chunk& chunk) {
  ChunkLine line{.number = chunk.number, .digest = chunk.digest, .runs = {}, .frame = chunk.frame};
  size_t first = 0;
  for (size_t page = 1; page <= kChunkPages; ++page) {
    const RunKind kind = kind_of(chunk, first);
    if (page < kChunkPages && kind_of(chunk, page) == kind) continue;
    line.runs.push_back(static_cast<uint32_t>(page - first) << kRunKindBits | kind);
    first = page;
  }
  while (!line.runs.empty() && (line.runs.back() & kRunKindMask) == kAbsent) line.runs.pop_back();
  return line;
}

std::unexpected<Error> bad(uint32_t chunk, const char* what) {
  return fail({Code::kDataLoss, "PART_DAMAGED"}, "chunks: number %u: %s", chunk, what);
}

Result<Chunk> chunk_of(const ChunkLine& line, size_t pages, bool is_diff) {
  Chunk chunk{.number = line.number, .digest = line.digest, .stored = {}, .zero = {}};
  size_t page = 0;
  uint32_t before = kRunKindMask;  // no kind of run
  for (const uint32_t run : line.runs) {
    const uint32_t kind = run & kRunKindMask;
    const size_t length = run >> kRunKindBits;
    if (kind > kZero || kind == before) return bad(line.number, "a run of a wrong kind");
    if (length == 0 || length > pages - page) return bad(line.number, "a run of a wrong length");
    if (kind == kZero && !is_diff) return bad(line.number, "a run of zeroes in a full index");
    for (const size_t end = page + length; page < end; ++page) {
      if (kind == kStored) chunk.stored.set(page);
      if (kind == kZero) chunk.zero.set(page);
    }
    before = kind;
  }
  if (line.runs.empty() || before == kAbsent) return bad(line.number, "ends in nothing");
  if (line.frame) {
    if (chunk.stored.none()) return bad(line.number, "a frame of no pages");
    if (line.frame->size_bytes == 0 || line.frame->size_bytes > kMaxFrameBytes) {
      return bad(line.number, "a frame of a wrong length");
    }
    chunk.frame = line.frame;
  }
  return chunk;
}

}  // namespace
}  // namespace mayfly::snapshot

namespace mayfly {

template <>
struct WireTable<snapshot::Frame> {
  static void fields(auto& wire, auto& frame) {
    wire.number(1, "size_bytes", frame.size_bytes);
    wire.image(2, "digest", frame.digest);
  }
};

template <>
struct WireTable<snapshot::ChunkLine> {
  static void fields(auto& wire, auto& chunk) {
    wire.number(1, "number", chunk.number);
    wire.image(2, "digest", chunk.digest);
    wire.packed(3, "runs", chunk.runs, snapshot::kChunkPages);
    wire.optional(4, "frame", chunk.frame);
  }
};

template <>
struct WireTable<snapshot::IndexMessage> {
  static void fields(auto& wire, auto& index) {
    wire.number(1, "memory_bytes", index.memory_bytes);
    wire.image(2, "parent_digest", index.parent_digest);
    wire.list(3, "chunks", index.chunks, snapshot::kMaxChunks);
  }
};

}  // namespace mayfly

namespace mayfly::snapshot {

const Chunk* MemoryIndex::find(uint32_t number) const {
  const auto it = std::ranges::lower_bound(chunks, number, {}, &Chunk::number);
  return it != chunks.end() && it->number == number ? &*it : nullptr;
}

uint64_t MemoryIndex::frames_bytes() const {
  uint64_t bytes = 0;
  for (const Chunk& chunk : chunks) bytes += chunk.frame ? chunk.frame->size_bytes : 0;
  return bytes;
}

bool MemoryIndex::has_frames(bool wanted) const {
  return std::ranges::all_of(chunks, [&](const Chunk& chunk) {
    return chunk.frame.has_value() == (wanted && chunk.stored.any());
  });
}

PageRun next_run(const PageMap& map, size_t from) {
  size_t first = from;
  while (first < kChunkPages && !map[first]) ++first;
  size_t end = first;
  while (end < kChunkPages && map[end]) ++end;
  return {first, end - first};
}

Result<Sealed> encode_index(const MemoryIndex& index) {
  IndexMessage message{
      .memory_bytes = index.memory_bytes, .parent_digest = index.parent_digest, .chunks = {}};
  for (const Chunk& chunk : index.chunks) message.chunks.push_back(line_of(chunk));
  Sealed sealed = seal(PartKind::kMemoryIndex, encode(message).bytes());
  if (sealed.bytes.size() > kMaxIndexBytes) {
    return fail({Code::kResourceExhausted, "INDEX_SIZE"},
                "memory.index: %zu bytes is above the limit of %llu: the pages are too scattered",
                sealed.bytes.size(), static_cast<unsigned long long>(kMaxIndexBytes));
  }
  return sealed;
}

Result<ReadIndex> decode_index(std::span<const std::byte> file, uint64_t memory_bytes) {
  const Unsealed unsealed = TRY(unseal(PartKind::kMemoryIndex, file));
  IndexMessage message;
  if (Result<> read = decode(unsealed.payload, message); !read) return damaged(read.error());
  if (message.memory_bytes != memory_bytes) {
    return fail({Code::kDataLoss, "PART_DAMAGED"}, "memory_bytes: %llu, the machine has %llu",
                static_cast<unsigned long long>(message.memory_bytes),
                static_cast<unsigned long long>(memory_bytes));
  }
  ReadIndex result{
      .index = {.memory_bytes = memory_bytes, .parent_digest = message.parent_digest, .chunks = {}},
      .digest = unsealed.digest};
  std::vector<Chunk>& chunks = result.index.chunks;
  uint64_t frames_end = 0;
  for (const ChunkLine& line : message.chunks) {
    if (line.number >= chunk_count(memory_bytes))
      return bad(line.number, "behind the memory's end");
    if (!chunks.empty() && line.number <= chunks.back().number) return bad(line.number, "unsorted");
    const size_t pages = pages_in_chunk(memory_bytes, line.number);
    chunks.push_back(TRY(chunk_of(line, pages, result.index.is_diff())));
    if (std::optional<Frame>& frame = chunks.back().frame) {
      frame->offset = frames_end;
      frames_end += frame->size_bytes;
    }
  }
  return result;
}

}  // namespace mayfly::snapshot
