// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/memory_pages.h"

#include "vmm/machine/pagemap.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <utility>
#include <vector>

namespace mayfly {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kLowPages = kLowRamEnd.value / kPage;
constexpr uint64_t kHighPages = 1001;
constexpr uint64_t kSize = (kLowPages + kHighPages) * kPage;

std::vector<uint64_t> pages_in(const std::string& bits, uint64_t first) {
  std::vector<uint64_t> found;
  for (uint64_t page = 0; page < bits.size() * 8; ++page) {
    if ((bits[page / 8] >> (page % 8) & 1) != 0) found.push_back(first + page);
  }
  return found;
}

GuestSpan page_of(const GuestMemory& memory, uint64_t page) {
  const Gpa gpa =
      page < kLowPages ? Gpa{page * kPage} : Gpa{kHighRamStart.value + (page - kLowPages) * kPage};
  return *memory.view({gpa, kPage});
}

struct Case {
  Fd file = *Fd::memfd("memory", kSize);
  Fd pagemap = *open_pagemap(Fd());
  GuestMemory memory = *GuestMemory::create(file.ref(), kSize);

  Result<PageReport> look(uint64_t first, uint32_t count, bool find_zero = false) const {
    return look_at_pages(memory, pagemap.ref(),
                         {.first_page = first, .page_count = count, .find_zero = find_zero});
  }
};

TEST_CASE("pages are resident once they are touched, and own once they are written privately") {
  Case at;
  using Pages = std::vector<uint64_t>;
  // Across the gap between the regions, from a page that no byte begins with.
  const uint64_t first = kLowPages - 5;
  page_of(at.memory, first).store<uint64_t>(0, 1);
  page_of(at.memory, kLowPages).store<uint64_t>(0, 1);
  CHECK_EQ(pages_in(at.look(first, 9)->resident, first), Pages{first, kLowPages});
  CHECK(pages_in(at.look(first, 9)->own, first).empty());
  REQUIRE(at.memory.leave(at.file.ref()));
  page_of(at.memory, kLowPages + 3).store<uint64_t>(8, 7);
  CHECK_EQ(page_of(at.memory, first).load<uint64_t>(0), 1);
  const PageReport report = *at.look(first, 9);
  // Whether others of the file are mapped along with one is the kernel's choice.
  CHECK_EQ(pages_in(report.own, first), Pages{kLowPages + 3});
  const Pages resident = pages_in(report.resident, first);
  CHECK(std::ranges::find(resident, first) != resident.end());
  CHECK(std::ranges::find(resident, kLowPages + 3) != resident.end());
  CHECK(pages_in(report.swapped, first).empty());
  CHECK(report.zero.empty());
}

TEST_CASE("zero are those of the resident pages that have nothing but zeroes in them") {
  Case at;
  const GuestMemory other = *GuestMemory::create(at.file.ref(), kSize, MemorySharing::kPrivate);
  for (const uint64_t page : {10, 11, 12}) page_of(other, page).store<uint64_t>(kPage - 8, 0);
  page_of(other, 11).store<uint8_t>(kPage - 1, 1);
  const PageReport report = *look_at_pages(other, at.pagemap.ref(),
                                           {.first_page = 8, .page_count = 8, .find_zero = true});
  CHECK_EQ(pages_in(report.own, 8), std::vector<uint64_t>{10, 11, 12});
  CHECK_EQ(pages_in(report.zero, 8), std::vector<uint64_t>{10, 12});
}

TEST_CASE("a range that is not RAM's, empty or too large is refused with its numbers") {
  Case at;
  constexpr uint64_t kPages = kLowPages + kHighPages;
  const auto refusal = [&](uint64_t first, uint32_t count, bool find_zero = false) {
    const auto report = at.look(first, count, find_zero);
    return report ? "" : report.error().reason();
  };
  CHECK_EQ(refusal(kPages - 1, 1), "");
  CHECK_EQ(refusal(0, kMaxQueryPages), "");
  CHECK_EQ(refusal(0, kMaxZeroQueryPages, true), "");
  for (const auto& [first, count] :
       std::vector<std::pair<uint64_t, uint32_t>>{{0, 0},
                                                  {kPages, 1},
                                                  {kPages - 1, 2},
                                                  {~uint64_t{0}, 1},
                                                  {~uint64_t{0}, 2},
                                                  {0, kMaxQueryPages + 1},
                                                  {0, ~uint32_t{0}}}) {
    CAPTURE(first);
    CAPTURE(count);
    CHECK_EQ(refusal(first, count), "PAGE_RANGE");
  }
  CHECK_EQ(refusal(0, kMaxZeroQueryPages + 1, true), "PAGE_RANGE");
  CHECK_EQ(look_at_pages(at.memory, FdRef(), {.first_page = 0, .page_count = 1}).error().reason(),
           "NO_PAGEMAP");
}

}  // namespace
}  // namespace mayfly
