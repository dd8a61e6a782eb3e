// SPDX-License-Identifier: Apache-2.0
//
// The floor: from process start to the first guest instruction, its exit, and the process reaped,
// by a program that does nothing but that. Kept apart from boot_compare, which times it, so that
// nothing else is linked in.
#include "base/clock.h"
#include "tests/perf/floor_vm_sys.h"

#include <cstdio>
#include <cstring>

namespace {

constexpr uint64_t kMemoryBytes = uint64_t{128} << 20;

// Inside a process that runs already: what a monitor that waits is measured against.
int print_time(mayfly::perf::IoctlOrder order) {
  const uint64_t begin_ns = mayfly::monotonic_ns();
  const mayfly::Result<> ran = mayfly::perf::run_floor_vm(order, kMemoryBytes);
  const uint64_t took_ns = mayfly::monotonic_ns() - begin_ns;
  if (!ran) std::fprintf(stderr, "boot_floor: %s\n", ran.error().describe().c_str());
  std::printf("%llu\n", static_cast<unsigned long long>(took_ns));
  return ran ? 0 : 1;
}

int run_vm(mayfly::perf::IoctlOrder order) {
  const mayfly::Result<> ran = mayfly::perf::run_floor_vm(order, kMemoryBytes);
  if (ran) return 0;
  std::fprintf(stderr, "boot_floor: %s\n", ran.error().describe().c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  using mayfly::perf::IoctlOrder;
  const char* word = argc == 1 ? "floor" : argv[1];
  if (argc <= 2 && std::strcmp(word, "floor") == 0) return run_vm(IoctlOrder::kFloor);
  if (argc <= 2 && std::strcmp(word, "firecracker") == 0) return run_vm(IoctlOrder::kFirecracker);
  if (argc <= 2 && std::strcmp(word, "floor-ns") == 0) return print_time(IoctlOrder::kFloor);
  if (argc <= 2 && std::strcmp(word, "firecracker-ns") == 0) {
    return print_time(IoctlOrder::kFirecracker);
  }
  if (argc <= 2 && std::strcmp(word, "empty") == 0) return 0;
  std::fputs(
      "usage: boot_floor [floor|firecracker|floor-ns|firecracker-ns|empty]\n"
      "Runs one VM of 128 MiB up to its first exit (or nothing, for empty) and ends. -ns: prints "
      "how long\n"
      "that took, from inside.\n",
      stderr);
  return 2;
}
