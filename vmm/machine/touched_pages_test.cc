// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/pagemap.h"
#include "vmm/machine/touched_pages_sys.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdio>
#include <vector>

#include <fcntl.h>

namespace mayfly {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kHighPages = 1001;  // not a multiple of 8
constexpr uint64_t kSize = kLowRamEnd.value + kHighPages * kPage;
constexpr uint64_t kLowPages = kLowRamEnd.value / kPage;
constexpr uint64_t kBitmapBytes = (kLowPages + kHighPages + 7) / 8;

using Pages = std::vector<uint64_t>;

TouchedFiles new_files(uint64_t bytes = kBitmapBytes) {
  return {.touched = *Fd::memfd("touched", bytes), .written = *Fd::memfd("written", bytes)};
}

Pages pages_in(const Fd& file) {
  std::vector<std::byte> bits(*file_size(file.ref()));
  REQUIRE(pread_exact(file.ref(), bits, 0));
  Pages found;
  for (uint64_t page = 0; page < bits.size() * 8; ++page) {
    if ((bits[page / 8] >> (page % 8) & std::byte{1}) != std::byte{}) found.push_back(page);
  }
  return found;
}

GuestSpan page_at(const GuestMemory& memory, uint64_t page) {
  const Gpa at =
      page < kLowPages ? Gpa{page * kPage} : Gpa{kHighRamStart.value + (page - kLowPages) * kPage};
  return *memory.view({at, kPage});
}

TEST_CASE("what was touched is recorded page by page, and what of that was written") {
  const Fd file = *Fd::memfd("memory", kSize);
  const Pages read = {3, 100, 8192, kLowPages - 1, kLowPages + 40};
  const Pages written = {4, 600, 601, kLowPages, kLowPages + kHighPages - 1};
  {
    // Every page is there, so that the kernel would map the neighbours of one.
    const GuestMemory shared = *GuestMemory::create(file.ref(), kSize);
    for (uint64_t page = 0; page < 10000; ++page) page_at(shared, page).store<uint64_t>(0, page);
  }
  const GuestMemory memory = *GuestMemory::create(file.ref(), kSize, MemorySharing::kPrivate);
  const auto device = Fd::open("/dev/userfaultfd", O_RDWR);
  const Fd record = begin_record(memory, device ? device->ref() : FdRef());
  for (const uint64_t page : read) {
    CHECK_EQ(page_at(memory, page).load<uint64_t>(0), page < 10000 ? page : 0);
  }
  for (const uint64_t page : written) page_at(memory, page).store<uint64_t>(8, 1);

  const Fd pagemap = *open_pagemap(Fd());
  const TouchedFiles files = new_files();
  const auto found = write_touched(memory, pagemap.ref(), files);
  REQUIRE(found.has_value());
  CHECK_EQ(pages_in(files.written), written);
  CHECK_EQ(found->written_count, written.size());
  if (!record.valid()) {
    std::printf("SKIPPED: touched pages one by one: this kernel does not record them so\n");
    return;
  }
  Pages touched = read;
  touched.insert(touched.end(), written.begin(), written.end());
  std::ranges::sort(touched);
  CHECK_EQ(pages_in(files.touched), touched);
  CHECK_EQ(found->touched_count, touched.size());
}

TEST_CASE("files of another length, and a process without a page map, are refused") {
  const Fd file = *Fd::memfd("memory", 12 * kPage);
  const GuestMemory memory = *GuestMemory::create(file.ref(), 12 * kPage, MemorySharing::kPrivate);
  const Fd pagemap = *open_pagemap(Fd());
  CHECK(write_touched(memory, pagemap.ref(), new_files(2)).has_value());
  CHECK_EQ(write_touched(memory, pagemap.ref(), new_files(1)).error().reason(), "FILE_LENGTH");
  TouchedFiles files = new_files(2);
  files.written = *Fd::memfd("written", 3);
  CHECK_EQ(write_touched(memory, pagemap.ref(), files).error().reason(), "FILE_LENGTH");
  CHECK_EQ(write_touched(memory, FdRef(), new_files(2)).error().reason(), "NO_PAGEMAP");
}

}  // namespace
}  // namespace mayfly
