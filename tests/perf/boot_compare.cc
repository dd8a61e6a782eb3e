// SPDX-License-Identifier: Apache-2.0
//
// What a start of a VM costs beside the floor: README.md says how to read it.
#include "tests/perf/rounds.h"
#include "tests/probe/launch_sys.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>

namespace mayfly::perf {
namespace {

constexpr const char* kUsage =
    "usage: boot_compare --floor PATH [--rounds N] [--monitor PATH --probe PATH] [--also "
    "NAME=COMMAND]...\n"
    "\n"
    "Times boot_floor (PATH) in its three ways, a mayfly-vmm with the probe guest that powers off "
    "at once, and\n"
    "other commands against each other, from spawn to reaped. COMMAND is split at spaces. Default: "
    "60 rounds.\n";

constexpr uint32_t kDefaultRounds = 60;
constexpr uint32_t kMaxRounds = 100'000;
constexpr int kGuestPowerOff = 1;  // control.proto, ExitReason
// Among the contenders.
constexpr size_t kFloorIndex = 1;

struct Options {
  std::string floor;
  std::string monitor;
  std::string probe;
  uint32_t rounds = kDefaultRounds;
  std::vector<Contender> others;
};

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  while (!text.empty()) {
    const size_t space = std::min(text.find(' '), text.size());
    if (space > 0) words.emplace_back(text.substr(0, space));
    text.remove_prefix(std::min(space + 1, text.size()));
  }
  return words;
}

bool add_other(Options& options, std::string_view value) {
  const size_t equals = std::min(value.find('='), value.size());
  std::vector<std::string> argv = words_of(value.substr(std::min(equals + 1, value.size())));
  if (argv.empty()) return false;
  options.others.push_back(command(std::string(value.substr(0, equals)), std::move(argv)));
  return true;
}

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view word = argv[i];
    const char* value = argv[i + 1];
    if (word == "--floor") {
      options.floor = value;
    } else if (word == "--monitor") {
      options.monitor = value;
    } else if (word == "--probe") {
      options.probe = value;
    } else if (word == "--rounds") {
      options.rounds = static_cast<uint32_t>(std::strtoul(value, nullptr, 10));
    } else if (word != "--also" || !add_other(options, value)) {
      return false;
    }
  }
  return argc % 2 == 1 && !options.floor.empty() && options.rounds > 0 &&
         options.rounds <= kMaxRounds && options.monitor.empty() == options.probe.empty();
}

Contender monitor_contender(const std::string& monitor, const std::string& kernel) {
  probe::LaunchOptions launch;
  launch.monitor = monitor;
  launch.kernel = kernel;
  launch.command_line = "exit";
  return {"mayfly-vmm", [launch]() -> Result<Sample> {
            const probe::LaunchResult result = TRY(probe::launch(launch));
            if (result.exit_reason != kGuestPowerOff) {
              return fail({Code::kAborted, "EXIT_REASON"}, "mayfly-vmm: %s %s %s",
                          result.exit_reason_name.c_str(), result.detail.c_str(),
                          result.refusal.c_str());
            }
            return Sample{result.wall_ns, result.cpu_ns};
          }};
}

void print(const std::vector<Contender>& contenders,
           const std::vector<std::vector<Sample>>& samples) {
  std::printf("%-20s %9s %9s %9s %9s %9s\n", "", "min us", "p50 us", "p99 us", "cpu us", "/floor");
  for (size_t i = 0; i < contenders.size(); ++i) {
    std::vector<double> wall;
    std::vector<double> cpu;
    std::vector<double> ratio;
    for (size_t round = 0; round < samples[i].size(); ++round) {
      wall.push_back(static_cast<double>(samples[i][round].wall_ns) / 1000);
      cpu.push_back(static_cast<double>(samples[i][round].cpu_ns) / 1000);
      ratio.push_back(static_cast<double>(samples[i][round].wall_ns) /
                      static_cast<double>(samples[kFloorIndex][round].wall_ns));
    }
    std::printf("%-20s %9.0f %9.0f %9.0f %9.0f %9.2f\n", contenders[i].name.c_str(),
                quantile(wall, 0), quantile(wall, 0.5), quantile(wall, 0.99), quantile(cpu, 0.5),
                quantile(ratio, 0.5));
  }
}

int run(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  std::vector<Contender> contenders;
  contenders.push_back(command("empty process", {options.floor, "empty"}));
  contenders.push_back(command("floor", {options.floor, "floor"}));
  contenders.push_back(command("firecracker order", {options.floor, "firecracker"}));
  if (!options.monitor.empty()) {
    contenders.push_back(monitor_contender(options.monitor, options.probe));
  }
  for (Contender& other : options.others) contenders.push_back(std::move(other));
  const auto samples = run_rounds(contenders, options.rounds);
  if (!samples) {
    std::fprintf(stderr, "boot_compare: %s\n", samples.error().describe().c_str());
    return 1;
  }
  print(contenders, *samples);
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) { return mayfly::perf::run(argc, argv); }
