// SPDX-License-Identifier: Apache-2.0
#include "tests/probe/cpu_sys.h"
#include "tests/probe/probe.h"

namespace probe {

void test_console() {
  start_report();
  const uint64_t count = number_option("count", 10);
  for (uint64_t i = 0; i < count; ++i) Line() << "line " << i << " of " << count;
}

// Says what it is told, until a line begins with 'q'.
void test_echo() {
  start_report();
  {
    Line() << "ready";
  }
  static uint8_t bytes[64];
  for (;;) {
    const size_t size = read_console(bytes, sizeof(bytes) - 1);
    require(size < sizeof(bytes), "more input than the buffer holds");
    bytes[size] = 0;
    if (size > 0 && bytes[size - 1] == '\n') bytes[size - 1] = 0;
    {
      Line() << "echo " << text_of(bytes);
    }
    if (bytes[0] == 'q') return;
  }
}

}  // namespace probe
