// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/memory_layer_sys.h"

#include "vmm/machine/pagemap.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <vector>

#include <sys/uio.h>
#include <unistd.h>

namespace mayfly {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kPagesAtOnce = 8192;
constexpr uint64_t kPagesOfChunk = kChunkBytes / kPageBytes;
constexpr uint64_t kPagesCompared = 16;

// Whether pages of a piece of RAM are in a layer, as its file says: a bit a page.
using PageBits = std::array<std::byte, kPagesAtOnce / 8>;

bool has(const PageBits& bits, uint64_t page) {
  return (bits[page / 8] >> (page % 8) & std::byte{1}) != std::byte{};
}

uint64_t bytes_of_bits(uint64_t pages) { return (pages + 7) / 8; }

std::unexpected<Error> write_failed(int os_errno) {
  const bool full = os_errno == ENOSPC || os_errno == EDQUOT || os_errno == EFBIG;
  return fail_errno(
      {full ? Code::kResourceExhausted : Code::kUnavailable, full ? "NO_SPACE" : "WRITE_FAILED"},
      os_errno, "write");
}

// Between a file and memory, through short counts and EINTR.
using Copy = Result<>(FdRef file, iovec rest, uint64_t offset);

void advance(iovec& rest, uint64_t& offset, ssize_t bytes) {
  rest.iov_base = static_cast<std::byte*>(rest.iov_base) + bytes;
  rest.iov_len -= static_cast<size_t>(bytes);
  offset += static_cast<uint64_t>(bytes);
}

// SAFETY (both): the iovec is the caller's memory and outlives the call; the kernel does the copy.

Result<> copy_out(FdRef file, iovec rest, uint64_t offset) {
  while (rest.iov_len > 0) {
    const ssize_t n = ::pwritev(file.number(), &rest, 1, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return write_failed(errno);
    advance(rest, offset, n);
  }
  return {};
}

Result<> copy_in(FdRef file, iovec rest, uint64_t offset) {
  while (rest.iov_len > 0) {
    const ssize_t n = ::preadv(file.number(), &rest, 1, static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno({Code::kUnavailable, "READ_FAILED"}, errno, "read");
    if (n == 0) {
      return fail({Code::kDataLoss, "LAYER_TRUNCATED"}, "layer: ends inside a page at %llu",
                  static_cast<unsigned long long>(offset));
    }
    advance(rest, offset, n);
  }
  return {};
}

// A piece of a region, its first page's number in RAM a multiple of 8.
struct Piece {
  const GuestMemory::Region& region;
  uint64_t first;  // in the region
  uint64_t pages;

  uint64_t offset() const { return region.file_offset + first * kPageBytes; }
};

template <typename Visit>
Result<> for_each_piece(const GuestMemory& memory, Visit&& visit) {
  for (const GuestMemory::Region& region : memory.regions()) {
    const uint64_t pages = region.size / kPageBytes;
    for (uint64_t first = 0; first < pages; first += kPagesAtOnce) {
      TRY(visit(Piece{region, first, std::min(kPagesAtOnce, pages - first)}));
    }
  }
  return {};
}

GuestSpan span_of(const GuestMemory& memory, const Piece& piece, uint64_t page, uint64_t count) {
  // MUST: pieces are of RAM's regions.
  return MUST(memory.view(
      {Gpa{piece.region.start.value + (piece.first + page) * kPageBytes}, count * kPageBytes}));
}

Result<> copy_pages(const GuestMemory& memory, const Piece& piece, const PageBits& bits, FdRef file,
                    Copy& copy) {
  for (uint64_t page = 0; page < piece.pages; ++page) {
    if (!has(bits, page)) continue;
    const uint64_t begin = page;
    while (page < piece.pages && has(bits, page)) ++page;
    const GuestSpan span = span_of(memory, piece, begin, page - begin);
    TRY(copy(file, span.as_iovec(), piece.offset() + begin * kPageBytes));
  }
  return {};
}

// Takes pages in [begin, end) that are as in the file out of `bits`; how many.
Result<uint64_t> drop_equal(const GuestMemory& memory, FdRef file, const Piece& piece,
                            uint64_t begin, uint64_t end, PageBits& bits) {
  std::vector<std::byte> buffer(kPagesCompared * kPageBytes);
  uint64_t dropped = 0;
  for (uint64_t page = begin; page < end; page += kPagesCompared) {
    const uint64_t count = std::min(kPagesCompared, end - page);
    const std::span<std::byte> before = std::span(buffer).first(count * kPageBytes);
    TRY(pread_exact(file, before, piece.offset() + page * kPageBytes));
    const GuestSpan now = span_of(memory, piece, page, count);
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t at = i * kPageBytes;
      if (!has(bits, page + i) || !now.equals(at, before.subspan(at, kPageBytes))) continue;
      bits[(page + i) / 8] &= ~(std::byte{1} << ((page + i) % 8));
      ++dropped;
    }
  }
  return dropped;
}

// Chunks that were copied are private, and most of their pages nobody need have written.
Result<uint64_t> drop_unchanged_copies(const GuestMemory& memory, FdRef file, const Piece& piece,
                                       PageBits& bits) {
  const uint64_t first = piece.offset() / kPageBytes;
  uint64_t dropped = 0;
  for (const ChunkRun& run : memory.copied_chunks()) {
    const uint64_t begin = std::max(run.first * kPagesOfChunk, first);
    const uint64_t end =
        std::min((uint64_t{run.first} + run.count) * kPagesOfChunk, first + piece.pages);
    if (begin >= end) continue;
    dropped += TRY(drop_equal(memory, file, piece, begin - first, end - first, bits));
  }
  return dropped;
}

Result<uint64_t> find_private(FdRef pagemap, const Piece& piece, std::vector<PagemapEntry>& entries,
                              PageBits& bits) {
  entries.resize(piece.pages);
  TRY(read_pagemap(pagemap, piece.region.host_address + piece.first * kPageBytes, entries));
  uint64_t count = 0;
  for (uint64_t page = 0; page < piece.pages; ++page) {
    if (!entries[page].is_private()) continue;
    bits[page / 8] |= std::byte{1} << (page % 8);
    ++count;
  }
  return count;
}

}  // namespace

Result<> expect_length(FdRef file, uint64_t wanted, const char* field) {
  const off_t end = ::lseek(file.number(), 0, SEEK_END);
  if (end < 0) {
    return fail_errno({Code::kInvalidArgument, "NOT_A_FILE"}, errno, "%s: find its end", field);
  }
  const auto found = static_cast<uint64_t>(end);
  if (found == wanted) return {};
  return fail({Code::kInvalidArgument, "FILE_LENGTH"}, "%s: %llu bytes, where %llu belong", field,
              static_cast<unsigned long long>(found), static_cast<unsigned long long>(wanted));
}

Result<> write_file_at(FdRef file, std::span<const std::byte> bytes, uint64_t offset) {
  // Written from, never to.
  return copy_out(file, {const_cast<std::byte*>(bytes.data()), bytes.size()}, offset);
}

Result<uint64_t> write_layer(const PrivateMemory& from, const ChangedPages& to) {
  const GuestMemory& memory = from.memory;
  const FdRef layer = to.layer.memory.ref();
  const FdRef pages = to.layer.pages.ref();
  TRY(expect_length(layer, memory.size(), "save.changed_pages.layer.memory_fd"));
  TRY(expect_length(pages, bytes_of_bits(memory.size() / kPageBytes),
                    "save.changed_pages.layer.pages_fd"));
  std::vector<PagemapEntry> entries;
  uint64_t count = 0;
  TRY(for_each_piece(memory, [&](const Piece& piece) -> Result<> {
    PageBits bits = {};
    count += TRY(find_private(from.pagemap, piece, entries, bits));
    count -= TRY(drop_unchanged_copies(memory, from.file, piece, bits));
    TRY(copy_pages(memory, piece, bits, layer, copy_out));
    return write_file_at(pages, std::span(bits).first(bytes_of_bits(piece.pages)),
                         piece.offset() / kPageBytes / 8);
  }));
  return count;
}

Result<> read_layer(const GuestMemory& memory, const MemoryLayer& layer) {
  TRY(expect_length(layer.memory.ref(), memory.size(), "memory_fd"));
  TRY(expect_length(layer.pages.ref(), bytes_of_bits(memory.size() / kPageBytes), "pages_fd"));
  return for_each_piece(memory, [&](const Piece& piece) -> Result<> {
    PageBits bits = {};
    const uint64_t bytes = bytes_of_bits(piece.pages);
    TRY(pread_exact(layer.pages.ref(), std::span(bits).first(bytes),
                    piece.offset() / kPageBytes / 8));
    for (uint64_t page = piece.pages; page < bytes * 8; ++page) {
      if (!has(bits, page)) continue;
      return fail({Code::kDataLoss, "LAYER_PAGES"}, "pages_fd: page %llu is beyond RAM",
                  static_cast<unsigned long long>(piece.offset() / kPageBytes + page));
    }
    return copy_pages(memory, piece, bits, layer.memory.ref(), copy_in);
  });
}

}  // namespace mayfly
