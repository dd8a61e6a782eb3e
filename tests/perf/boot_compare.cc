// SPDX-License-Identifier: Apache-2.0
//
// What a start of a VM costs beside the floor: README.md says how to read it.
#include "base/fd.h"
#include "jailer/empty_namespaces.h"
#include "tests/perf/rounds.h"
#include "tests/probe/launch_sys.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string_view>

#include <fcntl.h>

namespace mayfly::perf {
namespace {

constexpr const char* kUsage =
    "usage: boot_compare --floor PATH [--rounds N] [--json FILE]\n"
    "                    [--monitor PATH --probe PATH] [--jailer PATH]\n"
    "                    [--state PATH --memory PATH --disk PATH] [--also NAME[:CODE]=COMMAND]...\n"
    "\n"
    "Times boot_floor (PATH) in its three ways, a mayfly-vmm with the probe guest that powers off\n"
    "at once, and other commands against each other, from spawn to reaped. With --jailer (as "
    "root)\n"
    "also in a jail; with --state, --memory and --disk also restored from there, a guest that was\n"
    "saved as it powers off, with entropy, vsock and that disk, which is read only. COMMAND is\n"
    "split at spaces and must end with CODE. Default: 60 rounds.\n";

constexpr uint32_t kDefaultRounds = 60;
constexpr uint32_t kMaxRounds = 100'000;
constexpr int kGuestPowerOff = 1;  // control.proto, ExitReason
constexpr uint64_t kGuestCid = 3;
constexpr uid_t kJailUid = 900000;
// Among the contenders.
constexpr size_t kFloorIndex = 1;

struct Options {
  std::string floor;
  std::string monitor;
  std::string probe;
  std::string jailer;
  std::string state;
  std::string memory;
  std::string disk;
  std::string json;
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
  const std::string_view head = value.substr(0, equals);
  const size_t colon = std::min(head.find(':'), head.size());
  const std::string_view code = head.substr(std::min(colon + 1, head.size()));
  int number = 0;
  if (!code.empty()) {
    const auto [end, error] = std::from_chars(code.data(), code.data() + code.size(), number);
    if (error != std::errc{} || end != code.data() + code.size()) return false;
  }
  options.others.push_back(command(std::string(head.substr(0, colon)), std::move(argv), number));
  return true;
}

std::string* text_option(Options& options, std::string_view word) {
  if (word == "--floor") return &options.floor;
  if (word == "--monitor") return &options.monitor;
  if (word == "--probe") return &options.probe;
  if (word == "--jailer") return &options.jailer;
  if (word == "--state") return &options.state;
  if (word == "--memory") return &options.memory;
  if (word == "--disk") return &options.disk;
  if (word == "--json") return &options.json;
  return nullptr;
}

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view word = argv[i];
    const char* value = argv[i + 1];
    if (std::string* text = text_option(options, word)) {
      *text = value;
    } else if (word == "--rounds") {
      options.rounds = static_cast<uint32_t>(std::strtoul(value, nullptr, 10));
    } else if (word != "--also" || !add_other(options, value)) {
      return false;
    }
  }
  const bool saved = !options.state.empty();
  return argc % 2 == 1 && !options.floor.empty() && options.rounds > 0 &&
         options.rounds <= kMaxRounds && options.monitor.empty() == options.probe.empty() &&
         saved == !options.memory.empty() && saved == !options.disk.empty() &&
         (!options.monitor.empty() || (!saved && options.jailer.empty()));
}

Contender monitor_contender(std::string name, const probe::LaunchOptions& launch) {
  auto run = [name, launch]() -> Result<Sample> {
    const probe::LaunchResult result = TRY(probe::launch(launch));
    if (result.exit_reason != kGuestPowerOff) {
      return fail({Code::kAborted, "EXIT_REASON"}, "%s: %s %s %s", name.c_str(),
                  result.exit_reason_name.c_str(), result.detail.c_str(), result.refusal.c_str());
    }
    return Sample{.wall_ns = result.wall_ns,
                  .cpu_ns = result.cpu_ns,
                  .minor_faults = result.minor_faults,
                  .main_ns = result.main_ns,
                  .running_ns = result.running_ns,
                  .ended_ns = result.ended_ns};
  };
  return {std::move(name), std::move(run)};
}

/// What the jailed are launched with: as long as they are.
struct Jails {
  Fd jailer;
  Fd monitor;
  jailer::EmptyNamespaces namespaces;

  probe::LaunchJail jail() const {
    return {jailer.ref(), monitor.ref(), namespaces.shared(), kJailUid};
  }
};

Result<Jails> make_jails(const Options& options) {
  return Jails{TRY(Fd::open(options.jailer.c_str(), O_RDONLY)),
               TRY(Fd::open(options.monitor.c_str(), O_RDONLY)),
               TRY(jailer::make_empty_namespaces())};
}

void add_monitors(const Options& options, const std::optional<Jails>& jails,
                  std::vector<Contender>& contenders) {
  probe::LaunchOptions launch;
  launch.monitor = options.monitor;
  launch.kernel = options.probe;
  launch.command_line = "exit";
  if (!options.disk.empty()) {
    launch.disks = {{.path = options.disk, .read_only = true}};
    launch.guest_cid = kGuestCid;
  }
  const auto add = [&](const std::string& name) {
    launch.jail.reset();
    contenders.push_back(monitor_contender(name, launch));
    if (!jails) return;
    launch.jail = jails->jail();
    contenders.push_back(monitor_contender("jailed " + name, launch));
  };
  add("boot");
  if (options.state.empty()) return;
  launch.saved = probe::LaunchSaved{options.state, options.memory};
  add("restore");
}

using Samples = std::vector<std::vector<Sample>>;

void print(const std::vector<Contender>& contenders, const Samples& samples) {
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

void write_json(FILE* file, const std::vector<Contender>& contenders, const Samples& samples) {
  constexpr std::pair<const char*, uint64_t Sample::*> kFields[] = {
      {"wall_ns", &Sample::wall_ns},           {"cpu_ns", &Sample::cpu_ns},
      {"minor_faults", &Sample::minor_faults}, {"main_ns", &Sample::main_ns},
      {"running_ns", &Sample::running_ns},     {"ended_ns", &Sample::ended_ns}};
  std::fputs("{", file);
  for (size_t i = 0; i < contenders.size(); ++i) {
    std::fprintf(file, "%s\n\"%s\": {", i == 0 ? "" : ",", contenders[i].name.c_str());
    for (const auto& [name, field] : kFields) {
      std::fprintf(file, "%s\"%s\": [", name == kFields[0].first ? "" : ", ", name);
      for (size_t round = 0; round < samples[i].size(); ++round) {
        std::fprintf(file, "%s%llu", round == 0 ? "" : ", ",
                     static_cast<unsigned long long>(samples[i][round].*field));
      }
      std::fputs("]", file);
    }
    std::fputs("}", file);
  }
  std::fputs("\n}\n", file);
}

Result<> report(const Options& options, const std::vector<Contender>& contenders,
                const Samples& samples) {
  print(contenders, samples);
  if (options.json.empty()) return {};
  FILE* file = std::fopen(options.json.c_str(), "we");
  if (file == nullptr) {
    return fail_errno({Code::kNotFound, "JSON"}, errno, "--json %s", options.json.c_str());
  }
  write_json(file, contenders, samples);
  if (std::fclose(file) != 0) {
    return fail_errno({Code::kDataLoss, "JSON"}, errno, "--json %s", options.json.c_str());
  }
  return {};
}

Result<> compare(Options& options) {
  std::vector<Contender> contenders;
  contenders.push_back(command("empty process", {options.floor, "empty"}));
  contenders.push_back(command("floor", {options.floor, "floor"}));
  contenders.push_back(command("firecracker order", {options.floor, "firecracker"}));
  std::optional<Jails> jails;
  if (!options.jailer.empty()) jails = TRY(make_jails(options));
  if (!options.monitor.empty()) add_monitors(options, jails, contenders);
  for (Contender& other : options.others) contenders.push_back(std::move(other));
  return report(options, contenders, TRY(run_rounds(contenders, options.rounds)));
}

int run(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  const auto compared = compare(options);
  if (compared) return 0;
  std::fprintf(stderr, "boot_compare: %s\n", compared.error().describe().c_str());
  return 1;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) { return mayfly::perf::run(argc, argv); }
