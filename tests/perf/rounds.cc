// SPDX-License-Identifier: Apache-2.0
#include "tests/perf/rounds.h"

#include "base/clock.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <spawn.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::perf {
namespace {

uint64_t ns_of(const timeval& time) {
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 +
         static_cast<uint64_t>(time.tv_usec) * 1000;
}

Result<Sample> run_command(const std::string& name, std::vector<std::string> arguments, int code) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  pid_t pid = -1;
  const uint64_t begin = monotonic_ns();
  const int error = ::posix_spawnp(&pid, argv[0], nullptr, nullptr, argv.data(), environ);
  if (error != 0) {
    return fail_errno({Code::kNotFound, "SPAWN"}, error, "%s: %s", name.c_str(), argv[0]);
  }
  int status = 0;
  rusage usage{};
  while (::wait4(pid, &status, 0, &usage) < 0 && errno == EINTR) {
  }
  const uint64_t end = monotonic_ns();
  if (!WIFEXITED(status) || WEXITSTATUS(status) != code) {
    return fail({Code::kAborted, "EXIT_STATUS"}, "%s: ended with wait status 0x%x", name.c_str(),
                static_cast<unsigned>(status));
  }
  return Sample{.wall_ns = end - begin,
                .cpu_ns = ns_of(usage.ru_utime) + ns_of(usage.ru_stime),
                .minor_faults = static_cast<uint64_t>(usage.ru_minflt)};
}

}  // namespace

Contender command(std::string name, std::vector<std::string> argv, int code) {
  auto run = [name, argv = std::move(argv), code] { return run_command(name, argv, code); };
  return {std::move(name), std::move(run)};
}

Result<std::vector<std::vector<Sample>>> run_rounds(std::vector<Contender>& contenders,
                                                    uint32_t rounds) {
  std::vector<std::vector<Sample>> samples(contenders.size());
  for (Contender& each : contenders) TRY(each.run());
  for (uint32_t round = 0; round < rounds; ++round) {
    for (size_t i = 0; i < contenders.size(); ++i) {
      // Each round begins elsewhere, so that no contender always follows the same one.
      const size_t turn = (i + round) % contenders.size();
      samples[turn].push_back(TRY(contenders[turn].run()));
    }
  }
  return samples;
}

double quantile(std::vector<double> values, double part) {
  std::ranges::sort(values);
  const auto last = static_cast<double>(values.size() - 1);
  return values[static_cast<size_t>(part * last + 0.5)];
}

}  // namespace mayfly::perf
