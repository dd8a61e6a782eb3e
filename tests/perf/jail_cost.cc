// SPDX-License-Identifier: Apache-2.0
//
// What a jail costs: a program that ends at once, from spawn to reaped, in a jail and without.
// README.md says how to read it.
#include "base/clock.h"
#include "base/fd.h"
#include "jailer/empty_namespaces.h"
#include "jailer/launch.h"
#include "tests/perf/rounds.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::perf {
namespace {

constexpr const char* kUsage =
    "usage: jail_cost --jailer PATH --program PATH [--rounds N] [--mounts N] [--json]\n"
    "\n"
    "PATH of --program: a static program that ends with code 0 when its argument is `empty`.\n"
    "--mounts: so many more mounts on the host (default 500), in a mount namespace of this\n"
    "program's own. Needs root. Default: 200 rounds of one, fewer of 10 and 100 in parallel.\n";

constexpr uint32_t kDefaultRounds = 200;
constexpr uint32_t kMaxRounds = 100'000;
constexpr uint32_t kDefaultMounts = 500;
constexpr uint32_t kMaxMounts = 50'000;
constexpr uint32_t kMinRounds = 20;
constexpr uint32_t kParallel[] = {1, 10, 100};
constexpr uid_t kFirstUid = 900000;

struct Options {
  std::string jailer;
  std::string program;
  uint32_t rounds = kDefaultRounds;
  uint32_t mounts = kDefaultMounts;
  bool json = false;
};

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    if (word == "--json") {
      options.json = true;
      continue;
    }
    if (++i == argc) return false;
    if (word == "--jailer") {
      options.jailer = argv[i];
    } else if (word == "--program") {
      options.program = argv[i];
    } else if (word == "--rounds") {
      options.rounds = static_cast<uint32_t>(std::strtoul(argv[i], nullptr, 10));
    } else if (word == "--mounts") {
      options.mounts = static_cast<uint32_t>(std::strtoul(argv[i], nullptr, 10));
    } else {
      return false;
    }
  }
  return !options.jailer.empty() && !options.program.empty() && options.rounds > 0 &&
         options.rounds <= kMaxRounds && options.mounts <= kMaxMounts;
}

/// How the program is started. Returns its process id.
using Start = std::move_only_function<Result<pid_t>(uint32_t index)>;

Result<> reap(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  return fail({Code::kAborted, "EXIT_STATUS"}, "ended with wait status 0x%x",
              static_cast<unsigned>(status));
}

/// `count` starts, then `count` ends.
Contender at_once(std::string name, uint32_t count, Start& start) {
  return {std::move(name), [count, &start]() -> Result<Sample> {
            std::vector<pid_t> pids;
            const uint64_t begin = monotonic_ns();
            for (uint32_t i = 0; i < count; ++i) pids.push_back(TRY(start(i)));
            for (const pid_t pid : pids) TRY(reap(pid));
            return Sample{.wall_ns = monotonic_ns() - begin};
          }};
}

Start plain(const Options& options) {
  return [program = options.program](uint32_t) mutable -> Result<pid_t> {
    char argument[] = "empty";
    char* const argv[] = {program.data(), argument, nullptr};
    char* const environment[] = {nullptr};
    pid_t pid = -1;
    const int error = ::posix_spawn(&pid, program.c_str(), nullptr, nullptr, argv, environment);
    if (error != 0) {
      return fail_errno({Code::kNotFound, "SPAWN"}, error, "%s", program.c_str());
    }
    return pid;
  };
}

Start jailed(jailer::LaunchPlan plan) {
  return [plan = std::move(plan)](uint32_t index) mutable -> Result<pid_t> {
    if (plan.jail.mode == jailer::JailMode::kRoot) {
      plan.jail.uid = plan.jail.gid = kFirstUid + index;
    }
    return TRY(jailer::launch(plan)).pid;
  };
}

/// More mounts, in a mount namespace of our own: the host's stay as they are.
Result<> add_mounts(uint32_t count) {
  for (uint32_t i = 0; i < count; ++i) {
    // Over something that nothing here uses.
    if (::mount("none", "/sys", "tmpfs", 0, nullptr) != 0) {
      return fail_errno({Code::kPermissionDenied, "MOUNT"}, errno, "mount %u of %u", i, count);
    }
  }
  return {};
}

struct Row {
  std::string name;
  uint32_t parallel;
  double min_us;
  double p50_us;
  double p99_us;
  // Of the per-round differences to `plain`, by program.
  double over_plain_us;
};

double us(const Sample& sample) { return static_cast<double>(sample.wall_ns) / 1000; }

void add_rows(uint32_t parallel, const std::vector<Contender>& contenders,
              const std::vector<std::vector<Sample>>& samples, std::vector<Row>& rows) {
  for (size_t i = 0; i < contenders.size(); ++i) {
    std::vector<double> wall;
    std::vector<double> over;
    for (size_t round = 0; round < samples[i].size(); ++round) {
      wall.push_back(us(samples[i][round]));
      over.push_back((us(samples[i][round]) - us(samples[0][round])) / parallel);
    }
    rows.push_back({contenders[i].name, parallel, quantile(wall, 0), quantile(wall, 0.5),
                    quantile(wall, 0.99), quantile(over, 0.5)});
  }
}

/// All contenders at each degree of parallelism.
Result<> measure(std::vector<std::pair<std::string, Start>>& starts, uint32_t rounds,
                 std::vector<Row>& rows) {
  for (const uint32_t parallel : kParallel) {
    std::vector<Contender> contenders;
    for (auto& [name, start] : starts) contenders.push_back(at_once(name, parallel, start));
    const auto samples = TRY(run_rounds(contenders, std::max(kMinRounds, rounds / parallel)));
    add_rows(parallel, contenders, samples, rows);
  }
  return {};
}

Result<std::vector<Row>> measure_all(const Options& options) {
  // What is mounted from here on is ours alone.
  if (::unshare(CLONE_NEWNS) != 0 ||
      ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return fail_errno({Code::kPermissionDenied, "NOT_ROOT"}, errno, "make a mount namespace");
  }
  const Fd jailer = TRY(Fd::open(options.jailer.c_str(), O_RDONLY));
  const Fd program = TRY(Fd::open(options.program.c_str(), O_RDONLY));
  const jailer::EmptyNamespaces shared = TRY(jailer::make_empty_namespaces());
  jailer::LaunchPlan plan = {
      .jailer = jailer.ref(), .program = program.ref(), .arguments = {"program", "empty"}};
  const auto with = [&](jailer::JailMode mode, jailer::SharedNamespaces namespaces) {
    plan.jail.mode = mode;
    plan.jail.namespaces = namespaces;
    return jailed(plan);
  };
  std::vector<std::pair<std::string, Start>> starts;
  const auto contend = [&](const std::string& suffix) {
    starts.clear();
    starts.emplace_back("plain" + suffix, plain(options));
    starts.emplace_back("off" + suffix, with(jailer::JailMode::kOff, {}));
    starts.emplace_back("root" + suffix, with(jailer::JailMode::kRoot, shared.shared()));
    starts.emplace_back("own network" + suffix,
                        with(jailer::JailMode::kRoot, {.mount = shared.mount.ref()}));
    starts.emplace_back("user" + suffix, with(jailer::JailMode::kUser, {}));
  };
  std::vector<Row> rows;
  contend("");
  TRY(measure(starts, options.rounds, rows));
  TRY(add_mounts(options.mounts));
  contend(" +" + std::to_string(options.mounts) + " mounts");
  TRY(measure(starts, options.rounds, rows));
  return rows;
}

void print_table(const std::vector<Row>& rows) {
  std::printf("%-26s %8s %10s %10s %10s %16s\n", "", "parallel", "min us", "p50 us", "p99 us",
              "over plain, each");
  for (const Row& row : rows) {
    std::printf("%-26s %8u %10.0f %10.0f %10.0f %16.0f\n", row.name.c_str(), row.parallel,
                row.min_us, row.p50_us, row.p99_us, row.over_plain_us);
  }
}

void print_json(const std::vector<Row>& rows) {
  std::printf("[");
  const char* separator = "\n";
  for (const Row& row : rows) {
    std::printf(
        "%s  {\"name\": \"%s\", \"parallel\": %u, \"min_us\": %.1f, \"p50_us\": %.1f, "
        "\"p99_us\": %.1f, \"over_plain_us_each\": %.1f}",
        separator, row.name.c_str(), row.parallel, row.min_us, row.p50_us, row.p99_us,
        row.over_plain_us);
    separator = ",\n";
  }
  std::printf("\n]\n");
}

int run(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  const auto rows = measure_all(options);
  if (!rows) {
    std::fprintf(stderr, "jail_cost: %s\n", rows.error().describe().c_str());
    return 1;
  }
  options.json ? print_json(*rows) : print_table(*rows);
  return 0;
}

}  // namespace
}  // namespace mayfly::perf

int main(int argc, char** argv) { return mayfly::perf::run(argc, argv); }
