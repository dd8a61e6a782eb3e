// SPDX-License-Identifier: Apache-2.0
#include "snapshot/memory_file.h"

#include "snapshot/files.h"

#include <algorithm>
#include <cerrno>
#include <cstring>

#include <fcntl.h>
#include <unistd.h>

namespace mayfly::snapshot {
namespace {

std::span<std::byte> bytes_of(std::vector<std::byte>& buffer, const PageRun& run) {
  return std::span(buffer).subspan(run.first * kPageBytes, run.pages * kPageBytes);
}
std::span<const std::byte> bytes_of(std::span<const std::byte> buffer, const PageRun& run) {
  return buffer.subspan(run.first * kPageBytes, run.pages * kPageBytes);
}

// Compared with itself, a byte apart: memcmp() goes at the speed of memory, and stops early.
bool is_zero(std::span<const std::byte> page) {
  return page[0] == std::byte{} && std::memcmp(page.data(), page.data() + 1, page.size() - 1) == 0;
}

Result<> each_run(const PageMap& map, auto&& body) {
  for (PageRun run = next_run(map, 0); run.pages > 0; run = next_run(map, run.first + run.pages)) {
    TRY(body(run));
  }
  return {};
}

// What the job asks for of chunk `number`.
PageMap wanted_pages(const MemoryJob& job, uint32_t number) {
  const size_t pages = pages_in_chunk(job.memory_bytes, number);
  PageMap wanted;
  if (job.parent_digest == Digest{}) return wanted.set() >> (kChunkPages - pages);
  constexpr size_t kBits = 64;
  for (size_t page = 0; page < pages; ++page) {
    const uint64_t bit = uint64_t{number} * kChunkPages + page;
    if ((job.dirty[bit / kBits] >> (bit % kBits) & 1) != 0) wanted.set(page);
  }
  return wanted;
}

Result<> check(const MemoryJob& job) {
  if (TRY(file_size(job.file)) != 0) {
    return fail({Code::kInternal, "MEMORY_FILE"}, "memory: the file to write is not empty");
  }
  const uint64_t pages = job.memory_bytes / kPageBytes;
  if (job.parent_digest != Digest{} && job.dirty.size() < (pages + 63) / 64) {
    return fail({Code::kInternal, "DIRTY_BITMAP"},
                "memory: a bitmap of %zu words is too small for %llu pages", job.dirty.size(),
                static_cast<unsigned long long>(pages));
  }
  if (job.is_compressed) return {};
  if (::ftruncate(job.file.number(), static_cast<off_t>(job.memory_bytes)) != 0) {
    return fail_errno({Code::kResourceExhausted, "NO_SPACE"}, errno, "memory: %llu bytes",
                      static_cast<unsigned long long>(job.memory_bytes));
  }
  return {};
}

// Writes chunks, one after the other.
class ChunkWriter {
 public:
  explicit ChunkWriter(const MemoryJob& job) : job_(job), buffer_(kChunkBytes) {}

  Result<Chunk> write(uint32_t number) {
    const uint64_t start = number * kChunkBytes;
    const PageMap wanted = wanted_pages(job_, number);
    // Pages that are not wanted may hold anything.
    TRY(each_run(wanted, [&](const PageRun& run) {
      return job_.ram.read(start + run.first * kPageBytes, bytes_of(buffer_, run));
    }));
    Chunk chunk{.number = number, .digest = {}, .stored = {}, .zero = {}};
    for (size_t page = 0; page < kChunkPages; ++page) {
      if (!wanted[page]) continue;
      (is_zero(bytes_of(buffer_, {page, 1})) ? chunk.zero : chunk.stored).set(page);
    }
    hasher_.reset();
    TRY(each_run(chunk.stored, [&](const PageRun& run) -> Result<> {
      hasher_.add(bytes_of(buffer_, run));
      return {};
    }));
    chunk.digest = hasher_.digest();
    TRY(job_.is_compressed ? write_frame(chunk) : write_pages(chunk));
    return chunk;
  }

 private:
  Result<> write_pages(const Chunk& chunk) {
    return each_run(chunk.stored, [&](const PageRun& run) {
      return write_at(job_.file, bytes_of(buffer_, run),
                      chunk.number * kChunkBytes + run.first * kPageBytes);
    });
  }

  Result<> write_frame(Chunk& chunk) {
    if (chunk.stored.none()) return {};
    // Its pages one after the other, in place: none moves up.
    size_t end = 0;
    TRY(each_run(chunk.stored, [&](const PageRun& run) -> Result<> {
      const auto bytes = bytes_of(buffer_, run);
      std::memmove(buffer_.data() + end, bytes.data(), bytes.size());
      end += bytes.size();
      return {};
    }));
    const auto frame = TRY(frames_.compress(std::span(buffer_).first(end)));
    hasher_.reset();
    hasher_.add(frame);
    chunk.frame = Frame{.size_bytes = static_cast<uint32_t>(frame.size()),
                        .digest = hasher_.digest(),
                        .offset = frames_end_};
    TRY(write_at(job_.file, frame, frames_end_));
    frames_end_ += frame.size();
    return {};
  }

  const MemoryJob& job_;
  std::vector<std::byte> buffer_;
  Hasher hasher_;
  FrameWriter frames_;
  uint64_t frames_end_ = 0;
};

std::unexpected<Error> damaged_chunk(uint32_t number, const char* what) {
  return fail({Code::kDataLoss, "MEMORY_DAMAGED"}, "memory: the 2 MiB at %llu: %s",
              static_cast<unsigned long long>(number * kChunkBytes), what);
}

// What the next function needs, of a size for any chunk.
struct Scratch {
  std::vector<std::byte>& pages;
  FrameReader& frames;
  Hasher& hasher;
};

// The stored pages out of the chunk's frame, one after the other.
Result<std::span<const std::byte>> expand_frame(const MemoryLayer& layer, const Chunk& chunk,
                                                const Scratch& scratch) {
  const std::span<std::byte> frame = scratch.frames.room(chunk.frame->size_bytes);
  TRY(pread_exact(layer.file, frame, chunk.frame->offset));
  scratch.hasher.reset();
  scratch.hasher.add(frame);
  // Before anything looks into it.
  if (scratch.hasher.digest() != chunk.frame->digest) {
    return damaged_chunk(chunk.number, "its frame is not as it was written");
  }
  const auto pages = scratch.frames.expand(frame, chunk.stored.count() * kPageBytes);
  if (!pages) return damaged_chunk(chunk.number, pages.error().message().c_str());
  return *pages;
}

// A layer's stored pages into their places in `scratch.pages`, checked.
Result<> read_stored(const MemoryLayer& layer, const Chunk& chunk, const Scratch& scratch) {
  std::span<const std::byte> expanded;
  if (chunk.frame) expanded = TRY(expand_frame(layer, chunk, scratch));
  scratch.hasher.reset();
  TRY(each_run(chunk.stored, [&](const PageRun& run) -> Result<> {
    const auto bytes = bytes_of(scratch.pages, run);
    if (chunk.frame) {
      std::ranges::copy(expanded.first(bytes.size()), bytes.begin());
      expanded = expanded.subspan(bytes.size());
    } else {
      TRY(pread_exact(layer.file, bytes, chunk.number * kChunkBytes + run.first * kPageBytes));
    }
    scratch.hasher.add(bytes);
    return {};
  }));
  if (scratch.hasher.digest() == chunk.digest) return {};
  return damaged_chunk(chunk.number, "not as it was written");
}

// All of its frames, which Snapshot::open() has found to be all there is.
Result<> verify_frames(FdRef file, const MemoryIndex& index) {
  std::vector<std::byte> pages(kChunkBytes);
  FrameReader frames;
  Hasher hasher;
  for (const Chunk& chunk : index.chunks) {
    TRY(read_stored({file, &index}, chunk, {.pages = pages, .frames = frames, .hasher = hasher}));
  }
  return {};
}

}  // namespace

Result<WrittenMemory> write_memory(const MemoryJob& job) {
  TRY(check(job));
  const bool full = job.parent_digest == Digest{};
  WrittenMemory written;
  written.index.memory_bytes = job.memory_bytes;
  written.index.parent_digest = job.parent_digest;
  ChunkWriter writer(job);
  for (uint32_t number = 0; number < chunk_count(job.memory_bytes); ++number) {
    if (full) {
      // What was never touched is not even looked at.
      const uint64_t next = TRY(job.ram.next_data(number * kChunkBytes));
      if (next >= job.memory_bytes) break;
      number = static_cast<uint32_t>(next / kChunkBytes);
    }
    Chunk chunk = TRY(writer.write(number));
    written.stored_pages += chunk.stored.count();
    written.zero_pages += chunk.zero.count();
    if (full) chunk.zero.reset();
    if ((chunk.stored | chunk.zero).any()) written.index.chunks.push_back(chunk);
  }
  return written;
}

Result<> verify_memory(FdRef file, const MemoryIndex& index) {
  if (index.frames_bytes() != 0) return verify_frames(file, index);
  std::vector<std::byte> buffer(kChunkBytes);
  Hasher hasher;
  for (uint32_t number = 0; number < chunk_count(index.memory_bytes); ++number) {
    const uint64_t start = number * kChunkBytes;
    const Chunk* chunk = index.find(number);
    const uint64_t data = TRY(next_data_in(file, start, index.memory_bytes));
    if (chunk == nullptr && data >= start + kChunkBytes) continue;
    const size_t pages = pages_in_chunk(index.memory_bytes, number);
    TRY(pread_exact(file, bytes_of(buffer, {0, pages}), start));
    hasher.reset();
    for (size_t page = 0; page < pages; ++page) {
      const auto bytes = bytes_of(buffer, {page, 1});
      if (chunk != nullptr && chunk->stored[page]) {
        hasher.add(bytes);
      } else if (!is_zero(bytes)) {
        return damaged_chunk(number, "there are bytes where nothing is stored");
      }
    }
    if (chunk != nullptr && hasher.digest() != chunk->digest) {
      return damaged_chunk(number, "not as it was written");
    }
  }
  return {};
}

Result<> ChunkLoader::load(std::span<const MemoryLayer> layers, uint32_t number) {
  stored_.reset();
  zero_.reset();
  std::memset(pages_.data(), 0, pages_.size());
  for (const MemoryLayer& layer : layers) {
    const Chunk* chunk = layer.index->find(number);
    if (chunk == nullptr) continue;
    TRY(read_stored(layer, *chunk, {.pages = layer_pages_, .frames = frames_, .hasher = hasher_}));
    TRY(each_run(chunk->stored, [&](const PageRun& run) -> Result<> {
      std::ranges::copy(bytes_of(layer_pages_, run), bytes_of(pages_, run).begin());
      return {};
    }));
    TRY(each_run(chunk->zero, [&](const PageRun& run) -> Result<> {
      std::ranges::fill(bytes_of(pages_, run), std::byte{});
      return {};
    }));
    stored_ = (stored_ & ~chunk->zero) | chunk->stored;
    zero_ = (zero_ & ~chunk->stored) | chunk->zero;
  }
  return {};
}

LayeredMemory::LayeredMemory(std::vector<MemoryLayer> layers) : layers_(std::move(layers)) {
  CHECK(!layers_.empty());
}

Result<> LayeredMemory::load(uint32_t number) {
  if (loaded_ == number) return {};
  loaded_ = kNone;
  TRY(chunk_.load(layers_, number));
  loaded_ = number;
  return {};
}

Result<> LayeredMemory::read(uint64_t offset, std::span<std::byte> out) {
  CHECK(out.size() <= size() && offset <= size() - out.size());
  while (!out.empty()) {
    const uint64_t inside = offset % kChunkBytes;
    const size_t size = std::min<size_t>(out.size(), kChunkBytes - inside);
    TRY(load(static_cast<uint32_t>(offset / kChunkBytes)));
    std::memcpy(out.data(), chunk_.pages().data() + inside, size);
    out = out.subspan(size);
    offset += size;
  }
  return {};
}

Result<uint64_t> LayeredMemory::next_data(uint64_t offset) {
  uint64_t next = size();
  for (const MemoryLayer& layer : layers_) {
    const auto it = std::ranges::lower_bound(
        layer.index->chunks, static_cast<uint32_t>(offset / kChunkBytes), {}, &Chunk::number);
    if (it != layer.index->chunks.end()) next = std::min(next, it->number * kChunkBytes);
  }
  return std::max(next, offset);
}

std::vector<uint64_t> LayeredMemory::known_pages() const {
  constexpr size_t kBits = 64;
  std::vector<uint64_t> pages((size() / kPageBytes + kBits - 1) / kBits);
  for (const MemoryLayer& layer : layers_) {
    for (const Chunk& chunk : layer.index->chunks) {
      const PageMap known = chunk.stored | chunk.zero;
      for (size_t page = 0; page < kChunkPages; ++page) {
        const uint64_t bit = uint64_t{chunk.number} * kChunkPages + page;
        if (known[page]) pages[bit / kBits] |= uint64_t{1} << (bit % kBits);
      }
    }
  }
  return pages;
}

Result<> LayeredMemory::apply_chunk(FdRef memfd) {
  const uint64_t start = loaded_ * kChunkBytes;
  TRY(each_run(chunk_.stored(), [&](const PageRun& run) {
    return write_at(memfd, bytes_of(chunk_.pages(), run), start + run.first * kPageBytes);
  }));
  return each_run(chunk_.zero(), [&](const PageRun& run) -> Result<> {
    if (::fallocate(memfd.number(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    static_cast<off_t>(start + run.first * kPageBytes),
                    static_cast<off_t>(run.pages * kPageBytes)) != 0) {
      return fail_errno({Code::kUnavailable, "SNAPSHOT_IO"}, errno, "memory: clear pages");
    }
    return {};
  });
}

Result<> LayeredMemory::apply_to(FdRef memfd) {
  if (TRY(file_size(memfd)) != size()) {
    return fail({Code::kInvalidArgument, "MEMORY_SIZE"}, "memory: the memfd is not of %llu bytes",
                static_cast<unsigned long long>(size()));
  }
  if (!layers_[0].index->is_diff() && TRY(next_data_in(memfd, 0, size())) != size()) {
    return fail({Code::kFailedPrecondition, "MEMORY_NOT_EMPTY"},
                "memory: a full snapshot goes into an empty memfd only");
  }
  const uint32_t count = chunk_count(size());
  for (uint64_t next = TRY(next_data(0)); next < size();) {
    const auto number = static_cast<uint32_t>(next / kChunkBytes);
    TRY(load(number));
    TRY(apply_chunk(memfd));
    if (number + 1 == count) break;
    next = TRY(next_data((number + 1) * kChunkBytes));
  }
  return {};
}

}  // namespace mayfly::snapshot
