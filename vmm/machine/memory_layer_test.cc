// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/memory_layer_sys.h"
#include "vmm/machine/pagemap.h"

#include <doctest/doctest.h>

#include <vector>

#include <fcntl.h>

namespace mayfly {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHighPages = 1001;  // not a multiple of 8
constexpr uint64_t kSize = kLowRamEnd.value + kHighPages * kPage;
constexpr uint64_t kLowPages = kLowRamEnd.value / kPage;

ChangedPages files_for(uint64_t pages) {
  return {.layer = {.memory = *Fd::memfd("layer", pages * kPage),
                    .pages = *Fd::memfd("pages", (pages + 7) / 8)}};
}

Result<uint64_t> write_layer(const GuestMemory& memory, FdRef file, const ChangedPages& to) {
  const Fd pagemap = *open_pagemap(Fd());
  return write_layer({.memory = memory, .file = file, .pagemap = pagemap.ref()}, to);
}

std::vector<uint64_t> pages_in(FdRef pages) {
  std::vector<std::byte> bits(*file_size(pages));
  REQUIRE(pread_exact(pages, bits, 0));
  std::vector<uint64_t> found;
  for (uint64_t page = 0; page < bits.size() * 8; ++page) {
    if ((bits[page / 8] >> (page % 8) & std::byte{1}) != std::byte{}) found.push_back(page);
  }
  return found;
}

Gpa address_of(uint64_t page) {
  return page < kLowPages ? Gpa{page * kPage}
                          : Gpa{kHighRamStart.value + (page - kLowPages) * kPage};
}

void put(const GuestMemory& memory, uint64_t page, uint64_t value) {
  memory.view({address_of(page), kPage})->store<uint64_t>(8, value);
}

uint64_t get(const GuestMemory& memory, uint64_t page) {
  return memory.view({address_of(page), kPage})->load<uint64_t>(8);
}

const std::vector<uint64_t> kWritten = {
    0, 7, 8, 8191, 8192, kLowPages - 1, kLowPages, kLowPages + 5, kLowPages + kHighPages - 1};

TEST_CASE("a layer has the pages that were written, and no other, on both sides of the gap") {
  const Fd file = *Fd::memfd("memory", kSize);
  GuestMemory memory = *GuestMemory::create(file.ref(), kSize);
  put(memory, 3, 33);
  put(memory, 8, 88);
  REQUIRE(memory.leave(file.ref()));
  CHECK_EQ(get(memory, 3), 33);
  CHECK_EQ(get(memory, 4), 0);
  for (const uint64_t page : kWritten) put(memory, page, page + 1);
  const ChangedPages to = files_for(kLowPages + kHighPages);
  // What was there before counts no more.
  const std::byte all{0xff};
  REQUIRE(write_file_at(to.layer.pages.ref(), std::span(&all, 1), 5));
  CHECK_EQ(*write_layer(memory, file.ref(), to), kWritten.size());
  CHECK_EQ(pages_in(to.layer.pages.ref()), kWritten);

  const GuestMemory other = *GuestMemory::create(file.ref(), kSize, MemorySharing::kPrivate);
  CHECK_EQ(get(other, 8), 88);
  REQUIRE(read_layer(other, to.layer));
  for (const uint64_t page : kWritten) CHECK_EQ(get(other, page), page + 1);
  CHECK_EQ(get(other, 3), 33);
  CHECK_EQ(get(other, 9), 0);
}

TEST_CASE("of chunks that were copied a layer has what differs from their file") {
  const Fd file = *Fd::memfd("memory", kSize);
  {
    const GuestMemory shared = *GuestMemory::create(file.ref(), kSize);
    for (uint64_t page = 0; page < 1024; ++page) put(shared, page, page);
  }
  GuestMemory memory = *GuestMemory::create(file.ref(), kSize, MemorySharing::kPrivate);
  const uint32_t high = kLowPages / 512;
  REQUIRE(memory.copy_chunks(file.ref(), std::vector<ChunkRun>{{1, 1}, {high - 1, 3}}));
  put(memory, 600, 601);
  put(memory, 601, 601);  // what it was
  put(memory, 1023, 0);
  put(memory, 2000, 1);  // in no copied chunk
  put(memory, kLowPages - 1, 1);
  put(memory, kLowPages + kHighPages - 1, 1);
  const ChangedPages to = files_for(kLowPages + kHighPages);
  const std::vector<uint64_t> changed = {600, 1023, 2000, kLowPages - 1,
                                         kLowPages + kHighPages - 1};
  CHECK_EQ(*write_layer(memory, file.ref(), to), changed.size());
  CHECK_EQ(pages_in(to.layer.pages.ref()), changed);
  const GuestMemory other = *GuestMemory::create(file.ref(), kSize, MemorySharing::kPrivate);
  REQUIRE(read_layer(other, to.layer));
  CHECK_EQ(get(other, 600), 601);
  CHECK_EQ(get(other, 601), 601);
  CHECK_EQ(get(other, 1022), 1022);
  CHECK_EQ(get(other, 1023), 0);
}

TEST_CASE("nothing written: a layer of nothing") {
  const Fd file = *Fd::memfd("memory", kPage * 16);
  const GuestMemory memory = *GuestMemory::create(file.ref(), kPage * 16, MemorySharing::kPrivate);
  const ChangedPages to = files_for(16);
  CHECK_EQ(*write_layer(memory, file.ref(), to), 0);
  CHECK(pages_in(to.layer.pages.ref()).empty());
  CHECK(read_layer(memory, to.layer).has_value());
}

TEST_CASE("files of another length, and pages beyond RAM, are refused") {
  const uint64_t size = kPage * 12;
  const Fd file = *Fd::memfd("memory", size);
  const GuestMemory memory = *GuestMemory::create(file.ref(), size, MemorySharing::kPrivate);
  const auto reason = [&](uint64_t memory_bytes, uint64_t pages_bytes, uint8_t last) {
    const MemoryLayer layer = {.memory = *Fd::memfd("layer", memory_bytes),
                               .pages = *Fd::memfd("pages", pages_bytes)};
    const auto byte = std::byte{last};
    REQUIRE(write_file_at(layer.pages.ref(), std::span(&byte, 1), pages_bytes - 1));
    const Result<> read = read_layer(memory, layer);
    return read ? "" : read.error().reason();
  };
  CHECK_EQ(reason(size, 2, 0x0f), "");
  CHECK_EQ(reason(size, 2, 0x10), "LAYER_PAGES");
  CHECK_EQ(reason(size, 2, 0x80), "LAYER_PAGES");
  CHECK_EQ(reason(size, 1, 0), "FILE_LENGTH");
  CHECK_EQ(reason(size, 3, 0), "FILE_LENGTH");
  CHECK_EQ(reason(size - 1, 2, 0), "FILE_LENGTH");
  CHECK_EQ(reason(size + kPage, 2, 0), "FILE_LENGTH");
}

TEST_CASE("who cannot open its pagemap is told so, and has written no page") {
  const Fd file = *Fd::memfd("memory", kPage);
  const GuestMemory memory = *GuestMemory::create(file.ref(), kPage, MemorySharing::kPrivate);
  put(memory, 0, 1);
  const ChangedPages to = files_for(1);
  CHECK_EQ(
      write_layer({.memory = memory, .file = file.ref(), .pagemap = FdRef()}, to).error().reason(),
      "NO_PAGEMAP");
  CHECK(pages_in(to.layer.pages.ref()).empty());
  CHECK_EQ(open_pagemap(*Fd::open("/dev/null", O_RDONLY)).error().reason(), "NO_PAGEMAP");
  CHECK(open_pagemap(*Fd::open("/proc/self", O_PATH | O_DIRECTORY)).has_value());
}

TEST_CASE("files of another length are refused before anything is written") {
  const Fd file = *Fd::memfd("memory", kPage);
  const GuestMemory memory = *GuestMemory::create(file.ref(), kPage, MemorySharing::kPrivate);
  ChangedPages to = files_for(1);
  to.layer.pages = *Fd::memfd("pages", 2);
  CHECK_EQ(write_layer(memory, file.ref(), to).error().reason(), "FILE_LENGTH");
  const auto pipe = *Fd::pipe();
  CHECK_EQ(expect_length(pipe.first.ref(), 0, "field").error().reason(), "NOT_A_FILE");
}

}  // namespace
}  // namespace mayfly
