// SPDX-License-Identifier: Apache-2.0
//
// A guest with a working set: a piece of memory whose pages it knows, and of which it reads all and
// writes some each time that it is told a line. Whatever a page holds that it should not ends it.
#include "tests/probe/cpu_sys.h"
#include "tests/probe/probe.h"

namespace probe {
namespace {

constexpr uint64_t kPageBytes = 4096;

struct WorkingSet {
  uint64_t address;
  uint64_t pages;
  // Written: the first so many, and of all every so-manieth; 0: none.
  uint64_t written;
  uint64_t every;

  bool writes(uint64_t page) const { return page < written || (every != 0 && page % every == 0); }
};

uint64_t name_of(uint64_t page) { return (page + 1) * 0x9e3779b97f4a7c15; }

void fill(const WorkingSet& set) {
  for (uint64_t page = 0; page < set.pages; ++page) {
    volatile uint64_t* words = memory_at(set.address + page * kPageBytes);
    words[0] = name_of(page);
    words[1] = 0;
    words[511] = ~name_of(page);
  }
}

// What round it was is in the second word of the pages that are written.
void touch(const WorkingSet& set, uint64_t round) {
  for (uint64_t page = 0; page < set.pages; ++page) {
    volatile uint64_t* words = memory_at(set.address + page * kPageBytes);
    require(words[0] == name_of(page) && words[511] == ~name_of(page), "a page is not itself");
    require(words[1] == (set.writes(page) ? round : 0), "a page is of another round");
    if (set.writes(page)) words[1] = round + 1;
  }
}

}  // namespace

void test_touch() {
  const WorkingSet set = {.address = number_option("at", 0x1000000),
                          .pages = number_option("pages", 2048),
                          .written = number_option("written", 0),
                          .every = number_option("every", 5)};
  start_report();
  fill(set);
  {
    Line() << "ready";
  }
  static uint8_t bytes[64];
  for (uint64_t round = 0;; ++round) {
    (void)read_console(bytes, sizeof(bytes));
    if (bytes[0] == 'q') return;
    const uint64_t begin = cycles();
    touch(set, round);
    const uint64_t end = cycles();
    Line() << "touched " << round << " " << end - begin;
  }
}

}  // namespace probe
