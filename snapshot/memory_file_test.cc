// SPDX-License-Identifier: Apache-2.0
#include "snapshot/memory_file.h"

#include "snapshot/files.h"
#include "snapshot/testing/sample.h"

#include <doctest/doctest.h>

#include <chrono>
#include <cstdio>

#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::snapshot {
namespace {

using testing::bitmap_of;
using testing::content_of;
using testing::fill_page;
using testing::kSampleBytes;
using testing::kSamplePages;
using testing::sample_ram;

const Digest kSomeParent = {.bytes = {std::byte{1}}};

struct Written {
  Fd file = *Fd::memfd("memory", 0);
  WrittenMemory memory;
};

Written write_full(FdRef ram) {
  Written written;
  MemfdRam source(ram, kSampleBytes);
  written.memory =
      *write_memory({.file = written.file.ref(), .ram = source, .memory_bytes = kSampleBytes});
  return written;
}

Written write_diff(FdRef ram, const std::vector<uint64_t>& dirty) {
  Written written;
  MemfdRam source(ram, kSampleBytes);
  const auto bitmap = bitmap_of(dirty);
  written.memory = *write_memory({.file = written.file.ref(),
                                  .ram = source,
                                  .memory_bytes = kSampleBytes,
                                  .parent_digest = kSomeParent,
                                  .dirty = bitmap});
  return written;
}

uint64_t bytes_on_disk(FdRef file) {
  struct stat info;
  REQUIRE_EQ(::fstat(file.number(), &info), 0);
  return static_cast<uint64_t>(info.st_blocks) * 512;
}

TEST_CASE("a full memory stores the pages that are not zero, and no others") {
  const Fd ram = sample_ram();
  const Written written = write_full(ram.ref());
  CHECK_EQ(written.memory.stored_pages, 8);
  CHECK_EQ(written.memory.index.chunks.size(), 3);
  CHECK_EQ(*file_size(written.file.ref()), kSampleBytes);
  CHECK_EQ(bytes_on_disk(written.file.ref()), 8 * kPageBytes);
  CHECK_EQ(content_of(written.file.ref()), content_of(ram.ref()));
  CHECK(verify_memory(written.file.ref(), written.memory.index).has_value());
}

TEST_CASE("a memory that was never touched is all hole") {
  const Fd ram = *Fd::memfd("empty", kSampleBytes);
  const Written written = write_full(ram.ref());
  CHECK(written.memory.index.chunks.empty());
  CHECK_EQ(bytes_on_disk(written.file.ref()), 0);
  CHECK_EQ(written.memory.zero_pages, 0);  // not even looked at
  CHECK(verify_memory(written.file.ref(), written.memory.index).has_value());
}

TEST_CASE("RAM through the monitor's mapping gives the same file") {
  const Fd ram = sample_ram();
  const GuestMemory memory = *GuestMemory::create(ram.ref(), kSampleBytes);
  MappedRam source(memory);
  const Fd file = *Fd::memfd("memory", 0);
  const auto written =
      write_memory({.file = file.ref(), .ram = source, .memory_bytes = kSampleBytes});
  REQUIRE(written.has_value());
  CHECK(written->index == write_full(ram.ref()).memory.index);
  CHECK_EQ(content_of(file.ref()), content_of(ram.ref()));
  std::array<std::byte, 2> two;
  CHECK_FALSE(source.read(kSampleBytes - 1, two).has_value());
}

TEST_CASE("a diff stores what is dirty and not zero, and says what became zero") {
  const Fd ram = sample_ram();
  const Written full = write_full(ram.ref());
  fill_page(ram.ref(), 1, 0);     // becomes zero
  fill_page(ram.ref(), 600, 77);  // new
  fill_page(ram.ref(), 512, 78);  // changed
  fill_page(ram.ref(), 900, 79);  // changed, but not said to be
  const Written diff = write_diff(ram.ref(), {1, 512, 600, 601, kSamplePages - 1});
  CHECK_EQ(diff.memory.stored_pages, 3);
  CHECK_EQ(diff.memory.zero_pages, 2);
  CHECK_EQ(bytes_on_disk(diff.file.ref()), 3 * kPageBytes);
  CHECK(diff.memory.index.find(0)->zero[1]);

  fill_page(ram.ref(), 900, 0);
  const Fd restored = *Fd::memfd("restored", kSampleBytes);
  LayeredMemory both(
      {{full.file.ref(), &full.memory.index}, {diff.file.ref(), &diff.memory.index}});
  REQUIRE(both.apply_to(restored.ref()).has_value());
  CHECK_EQ(content_of(restored.ref()), content_of(ram.ref()));
  CHECK_EQ(bytes_on_disk(restored.ref()), 8 * kPageBytes);  // the holes stay holes

  // The diff alone goes over what is there already.
  const Fd over = *Fd::memfd("over", kSampleBytes);
  LayeredMemory lower({{full.file.ref(), &full.memory.index}});
  LayeredMemory upper({{diff.file.ref(), &diff.memory.index}});
  REQUIRE(lower.apply_to(over.ref()).has_value());
  REQUIRE(upper.apply_to(over.ref()).has_value());
  CHECK_EQ(content_of(over.ref()), content_of(ram.ref()));
}

TEST_CASE("a full memory goes into an empty memfd of its size only") {
  const Fd ram = sample_ram();
  const Written full = write_full(ram.ref());
  LayeredMemory memory({{full.file.ref(), &full.memory.index}});
  const Fd small = *Fd::memfd("small", kSampleBytes - kPageBytes);
  CHECK_EQ(memory.apply_to(small.ref()).error().reason(), "MEMORY_SIZE");
  CHECK_EQ(memory.apply_to(ram.ref()).error().reason(), "MEMORY_NOT_EMPTY");
}

TEST_CASE("a read across chunks is the RAM's content") {
  const Fd ram = sample_ram();
  const Written full = write_full(ram.ref());
  LayeredMemory memory({{full.file.ref(), &full.memory.index}});
  const auto content = content_of(ram.ref());
  std::vector<std::byte> part(kChunkBytes + 5000);
  REQUIRE(memory.read(kChunkBytes - 3000, part).has_value());
  CHECK(std::ranges::equal(part, std::span(content).subspan(kChunkBytes - 3000, part.size())));
}

TEST_CASE("damage in a stored page, in a hole and in the digest is found") {
  const Fd ram = sample_ram();
  Written full = write_full(ram.ref());
  const auto refused = [&] {
    const Result<> verified = verify_memory(full.file.ref(), full.memory.index);
    return !verified && verified.error().reason() == "MEMORY_DAMAGED" &&
           verified.error().code() == Code::kDataLoss;
  };
  const auto flip = [&](uint64_t offset) {
    std::array<std::byte, 1> byte;
    REQUIRE(pread_exact(full.file.ref(), byte, offset).has_value());
    byte[0] ^= std::byte{0x10};
    REQUIRE(write_at(full.file.ref(), byte, offset).has_value());
  };
  CHECK_FALSE(refused());
  flip(512 * kPageBytes + 9);
  CHECK(refused());
  LayeredMemory memory({{full.file.ref(), &full.memory.index}});
  const Fd restored = *Fd::memfd("restored", kSampleBytes);
  CHECK_EQ(memory.apply_to(restored.ref()).error().reason(), "MEMORY_DAMAGED");
  flip(512 * kPageBytes + 9);
  CHECK_FALSE(refused());
  flip(kSampleBytes - 2 * kPageBytes - 1);  // where nothing is stored
  CHECK(refused());
  flip(kSampleBytes - 2 * kPageBytes - 1);
  CHECK_FALSE(refused());
  full.memory.index.chunks[1].digest.bytes[15] ^= std::byte{1};
  CHECK(refused());
}

TEST_CASE("a job that cannot be is refused") {
  const Fd ram = sample_ram();
  MemfdRam source(ram.ref(), kSampleBytes);
  const Fd file = *Fd::memfd("memory", 1);
  CHECK_EQ(write_memory({.file = file.ref(), .ram = source, .memory_bytes = kSampleBytes})
               .error()
               .reason(),
           "MEMORY_FILE");
  const Fd empty = *Fd::memfd("memory", 0);
  CHECK_EQ(write_memory({.file = empty.ref(),
                         .ram = source,
                         .memory_bytes = kSampleBytes,
                         .parent_digest = kSomeParent,
                         .dirty = {}})
               .error()
               .reason(),
           "DIRTY_BITMAP");
}

// Figures for the log; what is held is the goal on bytes, which no noise touches.
TEST_CASE("writing and verifying 64 MiB of scattered pages costs no more bytes than it must") {
  constexpr uint64_t kBytes = uint64_t{64} << 20;
  const Fd ram = *Fd::memfd("large", kBytes);
  uint64_t pages = 0;
  for (uint64_t page = 0; page < kBytes / kPageBytes; page += page % 7 == 0 ? 1 : 2, ++pages) {
    fill_page(ram.ref(), page, static_cast<uint8_t>(page % 255 + 1));
  }
  const Fd file = *Fd::memfd("memory", 0);
  MemfdRam source(ram.ref(), kBytes);
  const auto ms_since = [](auto start) {
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
        .count();
  };
  auto start = std::chrono::steady_clock::now();
  const auto written = write_memory({.file = file.ref(), .ram = source, .memory_bytes = kBytes});
  std::printf("wrote %llu pages in %.1f ms\n", static_cast<unsigned long long>(pages),
              ms_since(start));
  REQUIRE(written.has_value());
  start = std::chrono::steady_clock::now();
  REQUIRE(verify_memory(file.ref(), written->index).has_value());
  std::printf("verified in %.1f ms\n", ms_since(start));
  const uint64_t bytes = bytes_on_disk(file.ref()) + encode_index(written->index)->bytes.size();
  std::printf("%.4f of the pages' bytes\n",
              static_cast<double>(bytes) / static_cast<double>(pages * kPageBytes));
  CHECK_EQ(written->stored_pages, pages);
  CHECK_LE(bytes * 100, pages * kPageBytes * 105);
}

}  // namespace
}  // namespace mayfly::snapshot
