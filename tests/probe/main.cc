// SPDX-License-Identifier: Apache-2.0
#include "tests/probe/cpu_sys.h"
#include "tests/probe/probe.h"

namespace probe {
namespace {

void test_triple_fault() { fault(); }

struct Test {
  const char* name;
  void (*run)();
};

constexpr Test kTests[] = {
    {"exit", power_off},
    {"spin", forever},
    {"reset", reset},
    {"panic", panic},
    {"panic-reset", panic_and_reset},
    {"triple-fault", test_triple_fault},
    {"churn", test_churn},
    {"console", test_console},
    {"echo", test_echo},
    {"touch", test_touch},
    {"pages", test_pages},
    {"blk", test_blk},
    {"blk-read-only", test_blk_read_only},
    {"blk-bad", test_blk_bad},
    {"bench", test_bench},
    {"blk-load", test_blk_load},
    {"net-load", test_net_load},
    {"vsock-load", test_vsock_load},
    {"rng", test_rng},
    {"vsock", test_vsock},
    {"registers", test_registers},
    {"timer", test_timer},
    {"tsc", test_tsc},
    {"smp", test_smp},
};

}  // namespace
}  // namespace probe

// Called by start.S.
extern "C" [[noreturn]] void probe_main(const char* command_line) {
  probe::set_command_line(command_line);
  for (const probe::Test& test : probe::kTests) {
    if (!probe::option_is("test", test.name)) continue;
    test.run();
    probe::Line() << "PASS " << test.name;
    probe::power_off();
  }
  probe::start_report();
  probe::fail("probe.test= names no test");
}
