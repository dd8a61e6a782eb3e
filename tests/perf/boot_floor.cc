// SPDX-License-Identifier: Apache-2.0
//
// The floor: from process start to the first guest instruction, its exit, and the process reaped,
// by a program that does nothing but that. See README.md.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "tests/perf/floor_vm_sys.h"
#include "tests/perf/rounds.h"

namespace mayfly::perf {
namespace {

constexpr const char* kUsage =
    "usage: boot_floor [floor|firecracker|empty]\n"
    "       boot_floor --rounds N [--also NAME=COMMAND]...\n"
    "\n"
    "With a word: runs one VM of 128 MiB (or nothing, for empty) and ends. Default: floor.\n"
    "With --rounds: times those three and the other commands against each other, spawn to reaped.\n"
    "COMMAND is split at spaces. Ratios are medians of per-round ratios to floor.\n";

constexpr uint64_t kMemoryBytes = uint64_t{128} << 20;
constexpr uint32_t kMaxRounds = 100'000;
constexpr const char* kSelf = "/proc/self/exe";

int run_vm(IoctlOrder order) {
  const Result<> ran = run_floor_vm(order, kMemoryBytes);
  if (ran) return 0;
  std::fprintf(stderr, "boot_floor: %s\n", ran.error().describe().c_str());
  return 1;
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  while (!text.empty()) {
    const size_t space = std::min(text.find(' '), text.size());
    if (space > 0) words.emplace_back(text.substr(0, space));
    text.remove_prefix(std::min(space + 1, text.size()));
  }
  return words;
}

void print(const std::vector<Contender>& contenders,
           const std::vector<std::vector<Sample>>& samples, size_t floor) {
  std::printf("%-20s %10s %10s %10s %10s %10s\n", "", "p50 us", "p99 us", "min us", "cpu us",
              "/floor");
  for (size_t i = 0; i < contenders.size(); ++i) {
    std::vector<double> wall;
    std::vector<double> cpu;
    std::vector<double> ratio;
    for (size_t round = 0; round < samples[i].size(); ++round) {
      wall.push_back(static_cast<double>(samples[i][round].wall_ns) / 1000);
      cpu.push_back(static_cast<double>(samples[i][round].cpu_ns) / 1000);
      ratio.push_back(static_cast<double>(samples[i][round].wall_ns) /
                      static_cast<double>(samples[floor][round].wall_ns));
    }
    std::printf("%-20s %10.0f %10.0f %10.0f %10.0f %10.2f\n", contenders[i].name.c_str(),
                quantile(wall, 0.5), quantile(wall, 0.99), quantile(wall, 0), quantile(cpu, 0.5),
                quantile(ratio, 0.5));
  }
}

int compare(uint32_t rounds, std::vector<Contender> contenders) {
  const Result<std::vector<std::vector<Sample>>> samples = run_rounds(contenders, rounds);
  if (!samples) {
    std::fprintf(stderr, "boot_floor: %s\n", samples.error().describe().c_str());
    return 1;
  }
  print(contenders, *samples, 1);
  return 0;
}

int usage() {
  std::fputs(kUsage, stderr);
  return 2;
}

int run(int argc, char** argv) {
  std::vector<Contender> contenders = {{"empty", {kSelf, "empty"}},
                                       {"floor", {kSelf, "floor"}},
                                       {"firecracker order", {kSelf, "firecracker"}}};
  uint32_t rounds = 0;
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    const bool has_value = i + 1 < argc;
    if (word == "--rounds" && has_value) {
      rounds = static_cast<uint32_t>(std::strtoul(argv[++i], nullptr, 10));
      if (rounds == 0 || rounds > kMaxRounds) return usage();
    } else if (word == "--also" && has_value) {
      const std::string_view value = argv[++i];
      const size_t equals = value.find('=');
      if (equals == value.npos || words_of(value.substr(equals + 1)).empty()) return usage();
      contenders.push_back(
          {std::string(value.substr(0, equals)), words_of(value.substr(equals + 1))});
    } else {
      return usage();
    }
  }
  return rounds == 0 ? usage() : compare(rounds, std::move(contenders));
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) {
  using namespace mayfly::perf;
  // Before anything else: as a contender this is all there is.
  const char* word = argc == 1 ? "floor" : argv[1];
  if (argc <= 2) {
    if (std::strcmp(word, "empty") == 0) return 0;
    if (std::strcmp(word, "floor") == 0) return run_vm(IoctlOrder::kFloor);
    if (std::strcmp(word, "firecracker") == 0) return run_vm(IoctlOrder::kFirecracker);
  }
  return run(argc, argv);
}
