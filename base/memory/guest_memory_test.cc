// SPDX-License-Identifier: Apache-2.0
#include "base/memory/guest_memory.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>

namespace mayfly {
namespace {

constexpr uint64_t kMiB = 1024 * 1024;

GuestMemory make(uint64_t size) {
  const Fd memfd = *Fd::memfd("test", size);
  return *GuestMemory::create(memfd.ref(), size);
}

TEST_CASE("what is written is read back, through overlapping views") {
  const GuestMemory memory = make(kMiB);
  const GuestSpan page = *memory.view({Gpa{0x1000}, 0x1000});
  page.store<uint32_t>(4, 0x12345678);
  CHECK_EQ(memory.view({Gpa{0x1004}, 4})->load<uint32_t>(0), 0x12345678);
  page.zero(4, 2);
  CHECK_EQ(page.load<uint32_t>(4), 0x12340000);
  page.store_release_u16(8, 0xabcd);
  CHECK_EQ(page.load_acquire_u16(8), 0xabcd);
  CHECK_EQ(page.subspan(8, 8).load<uint16_t>(0), 0xabcd);
}

TEST_CASE("a range that leaves RAM by one byte, or wraps, is refused") {
  const GuestMemory memory = make(kMiB);
  CHECK(memory.view({Gpa{0}, kMiB}).has_value());
  CHECK(memory.view({Gpa{kMiB}, 0}).has_value());
  CHECK_FALSE(memory.view({Gpa{0}, kMiB + 1}).has_value());
  CHECK_FALSE(memory.view({Gpa{kMiB - 1}, 2}).has_value());
  CHECK_FALSE(memory.view({Gpa{kMiB + 1}, 0}).has_value());
  CHECK_FALSE(memory.view({Gpa{~uint64_t{0}}, 2}).has_value());
  CHECK_FALSE(memory.view({Gpa{1}, ~uint64_t{0}}).has_value());
}

TEST_CASE("RAM above 3 GiB goes on at 4 GiB, and the gap is not RAM") {
  const GuestMemory memory = make(kLowRamEnd.value + 16 * kMiB);
  REQUIRE_EQ(memory.regions().size(), 2);
  CHECK_EQ(memory.regions()[1].start, kHighRamStart);
  CHECK_EQ(memory.regions()[1].size, 16 * kMiB);
  CHECK(memory.view({kHighRamStart, 16 * kMiB}).has_value());
  CHECK_FALSE(memory.view({kHighRamStart, 16 * kMiB + 1}).has_value());
  CHECK_FALSE(memory.view({kLowRamEnd, 1}).has_value());
  CHECK_FALSE(memory.view({Gpa{kLowRamEnd.value - 1}, 2}).has_value());
  memory.view({kHighRamStart, 8})->store<uint64_t>(0, 7);
  CHECK_EQ(memory.view({kHighRamStart, 8})->load<uint64_t>(0), 7);
}

TEST_CASE("private RAM begins as its file is and keeps its writes to itself") {
  const Fd memfd = *Fd::memfd("test", kMiB);
  {
    const GuestMemory shared = *GuestMemory::create(memfd.ref(), kMiB);
    shared.view({Gpa{0x1000}, 8})->store<uint64_t>(0, 1);
  }
  // A private mapping needs no file that can be written.
  const Fd read_only = *Fd::open(format("/proc/self/fd/%d", memfd.number()).c_str(), O_RDONLY);
  const GuestMemory memory = *GuestMemory::create(read_only.ref(), kMiB, MemorySharing::kPrivate);
  const GuestSpan word = *memory.view({Gpa{0x1000}, 8});
  CHECK_EQ(word.load<uint64_t>(0), 1);
  word.store<uint64_t>(0, 2);
  CHECK_EQ(word.load<uint64_t>(0), 2);
  uint64_t in_file = 0;
  REQUIRE(pread_exact(memfd.ref(), std::as_writable_bytes(std::span(&in_file, 1)), 0x1000));
  CHECK_EQ(in_file, 1);
  CHECK_FALSE(GuestMemory::create(read_only.ref(), kMiB).has_value());
}

TEST_CASE("RAM that leaves its file keeps its content and addresses; the file can be sealed") {
  const uint64_t size = kLowRamEnd.value + 2 * kMiB;
  const Fd memfd = *Fd::memfd("test", size);
  GuestMemory memory = *GuestMemory::create(memfd.ref(), size);
  const uint64_t address = memory.regions()[1].host_address;
  const GuestSpan low = *memory.view({Gpa{0x2000}, 8});
  const GuestSpan high = *memory.view({kHighRamStart, 8});
  low.store<uint64_t>(0, 1);
  high.store<uint64_t>(0, 1);
  REQUIRE(memory.leave(memfd.ref()));
  CHECK_EQ(memory.sharing(), MemorySharing::kPrivate);
  CHECK_EQ(memory.regions()[1].host_address, address);
  CHECK_EQ(::fcntl(memfd.number(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK), 0);
  for (const GuestSpan& word : {low, high}) {
    CHECK_EQ(word.load<uint64_t>(0), 1);
    word.store<uint64_t>(0, 2);
    CHECK_EQ(word.load<uint64_t>(0), 2);
  }
  for (const uint64_t offset : {uint64_t{0x2000}, kLowRamEnd.value}) {
    uint64_t in_file = 0;
    REQUIRE(pread_exact(memfd.ref(), std::as_writable_bytes(std::span(&in_file, 1)), offset));
    CHECK_EQ(in_file, 1);
  }
}

TEST_CASE("copied chunks are as their file, on both sides of the gap and in RAM's short end") {
  const uint64_t size = kLowRamEnd.value + 3 * kMiB;
  const Fd memfd = *Fd::memfd("test", size);
  const Gpa below{kLowRamEnd.value - 8};
  const Gpa end{kHighRamStart.value + 3 * kMiB - 8};
  {
    const GuestMemory shared = *GuestMemory::create(memfd.ref(), size);
    for (const Gpa at : {Gpa{0}, below, kHighRamStart, end}) {
      shared.view({at, 8})->store<uint64_t>(0, at.value + 1);
    }
  }
  const uint32_t last_low = kLowRamEnd.value / kChunkBytes - 1;
  GuestMemory memory = *GuestMemory::create(memfd.ref(), size, MemorySharing::kPrivate);
  const std::vector<ChunkRun> runs = {{0, 1}, {last_low, 3}};
  REQUIRE(memory.copy_chunks(memfd.ref(), runs));
  const GuestMemory moved = std::move(memory);
  CHECK(std::ranges::equal(moved.copied_chunks(), runs));
  for (const Gpa at : {Gpa{0}, below, kHighRamStart, end}) {
    const GuestSpan word = *moved.view({at, 8});
    CHECK_EQ(word.load<uint64_t>(0), at.value + 1);
    word.store<uint64_t>(0, 2);
  }
  CHECK_EQ(moved.view({Gpa{kChunkBytes}, 8})->load<uint64_t>(0), 0);
  uint64_t in_file = 0;
  REQUIRE(pread_exact(memfd.ref(), std::as_writable_bytes(std::span(&in_file, 1)), below.value));
  CHECK_EQ(in_file, below.value + 1);
}

uint64_t blocks_of(FdRef file) {
  struct stat status = {};
  REQUIRE(::fstat(file.number(), &status) == 0);
  return static_cast<uint64_t>(status.st_blocks);
}

TEST_CASE("released pages of shared RAM are holes in its file, and can be used again") {
  const Fd file = *Fd::memfd("test", kMiB);
  const GuestMemory memory = *GuestMemory::create(file.ref(), kMiB);
  const GuestSpan all = *memory.view({Gpa{0}, kMiB});
  for (uint64_t at = 0; at < kMiB; at += kGuestPageBytes) all.store<uint64_t>(at, ~at);
  const uint64_t before = blocks_of(file.ref());
  REQUIRE(memory.release(all.subspan(16 * kGuestPageBytes, 64 * kGuestPageBytes)).has_value());
  CHECK_EQ(blocks_of(file.ref()), before - 64 * kGuestPageBytes / 512);
  CHECK_EQ(all.load<uint64_t>(15 * kGuestPageBytes), ~(15 * kGuestPageBytes));
  CHECK_EQ(all.load<uint64_t>(16 * kGuestPageBytes), 0);
  CHECK_EQ(all.load<uint64_t>(79 * kGuestPageBytes), 0);
  CHECK_EQ(all.load<uint64_t>(80 * kGuestPageBytes), ~(80 * kGuestPageBytes));
  all.store<uint64_t>(16 * kGuestPageBytes, 5);
  CHECK_EQ(all.load<uint64_t>(16 * kGuestPageBytes), 5);
  CHECK(memory.release(GuestSpan()).has_value());
}

TEST_CASE("released pages of private RAM are the file's again, which keeps its own") {
  const Fd file = *Fd::memfd("test", kMiB);
  const GuestMemory shared = *GuestMemory::create(file.ref(), kMiB);
  shared.view({Gpa{0x3000}, 8})->store<uint64_t>(0, 7);
  const GuestMemory memory = *GuestMemory::create(file.ref(), kMiB, MemorySharing::kPrivate);
  const GuestSpan page = *memory.view({Gpa{0x3000}, kGuestPageBytes});
  page.store<uint64_t>(0, 8);
  REQUIRE(memory.release(page).has_value());
  CHECK_EQ(page.load<uint64_t>(0), 7);
  CHECK_EQ(shared.view({Gpa{0x3000}, 8})->load<uint64_t>(0), 7);
}

TEST_CASE("the whole pages of a span are those that lie in it with all their bytes") {
  const GuestMemory memory = make(kMiB);
  const auto pages = [&](uint64_t start, uint64_t size) {
    return memory.view({Gpa{start}, size})->whole_pages().size() / kGuestPageBytes;
  };
  CHECK_EQ(pages(0x1000, 0x2000), 2);
  CHECK_EQ(pages(0x1001, 0x2000), 1);
  CHECK_EQ(pages(0x1fff, 0x1001), 1);
  CHECK_EQ(pages(0x1001, 0x1ffe), 0);
  CHECK_EQ(pages(0x1fff, 0x1000), 0);
  CHECK_EQ(pages(0x1000, 0xfff), 0);
  CHECK_EQ(memory.view({Gpa{kMiB}, 0})->whole_pages().size(), 0);
}

TEST_CASE("a span is compared with bytes") {
  const GuestMemory memory = make(kMiB);
  const GuestSpan page = *memory.view({Gpa{0x1000}, 0x1000});
  page.store<uint8_t>(3, 7);
  const std::array<std::byte, 4> bytes = {{{}, {}, {}, std::byte{7}}};
  CHECK(page.equals(0, bytes));
  CHECK_FALSE(page.equals(1, bytes));
  CHECK(page.equals(0x1000, {}));
}

TEST_CASE("bad sizes are refused with the number in the message") {
  const Fd memfd = *Fd::memfd("test", kMiB);
  CHECK_FALSE(GuestMemory::create(memfd.ref(), 0).has_value());
  CHECK_FALSE(GuestMemory::create(memfd.ref(), 4097).has_value());
  const auto too_large = GuestMemory::create(memfd.ref(), 2 * kMiB);
  REQUIRE_FALSE(too_large.has_value());
  CHECK_EQ(too_large.error().reason(), "MEMORY_FILE_TOO_SHORT");
  CHECK(too_large.error().message().find("1048576") != std::string::npos);
}

}  // namespace
}  // namespace mayfly
