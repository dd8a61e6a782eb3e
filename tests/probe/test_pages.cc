// SPDX-License-Identifier: Apache-2.0
//
// A guest that touches the pages it is told to, so that a host can compare what it is told of them
// with what they must be.
#include "tests/probe/cpu_sys.h"
#include "tests/probe/probe.h"

namespace probe {
namespace {

constexpr uint64_t kPageBytes = 4096;

uint64_t take_number(const uint8_t*& at) {
  while (*at == ' ') ++at;
  uint64_t number = 0;
  for (; *at >= '0' && *at <= '9'; ++at) number = number * 10 + static_cast<uint64_t>(*at - '0');
  return number;
}

}  // namespace

// "w FIRST COUNT VALUE" fills pages with a word, "r FIRST COUNT" reads a word of each; answered
// with "done" and the sum of what was read. To a balloon go "i FIRST COUNT" (inflate), "d FIRST
// COUNT" (deflate), "f FIRST COUNT" (report as free), "a PAGES" (so many were given) and "t";
// answered with what the device did and its target. 'q' is the end.
void test_pages() {
  start_report();
  {
    Line() << "ready";
  }
  static uint8_t bytes[64];
  for (;;) {
    const size_t size = read_console(bytes, sizeof(bytes) - 1);
    bytes[size] = 0;
    if (bytes[0] == 'q') return;
    const uint8_t* at = bytes + 1;
    const uint64_t first = take_number(at);
    const uint64_t count = take_number(at);
    if (balloon_command(bytes[0], first, count)) continue;
    const uint64_t value = take_number(at);
    uint64_t sum = 0;
    for (uint64_t page = first; page < first + count; ++page) {
      auto* words = reinterpret_cast<volatile uint64_t*>(page * kPageBytes);
      if (bytes[0] == 'w') {
        for (uint64_t i = 0; i < kPageBytes / sizeof(uint64_t); ++i) words[i] = value;
      } else {
        sum += words[0];
      }
    }
    Line() << "done " << first << " " << sum;
  }
}

}  // namespace probe
