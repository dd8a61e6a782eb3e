// SPDX-License-Identifier: Apache-2.0
//
// Runs timed against each other, interleaved: each round runs every contender once, so what the
// machine does meanwhile strikes all alike.
#pragma once

#include "base/error.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace mayfly::perf {

struct Sample {
  uint64_t wall_ns = 0;
  /// User and system time of the process and the children it reaped.
  uint64_t cpu_ns = 0;
  uint64_t minor_faults = 0;
  /// Of a monitor, since the launch, by its own clock: its main(), the guest's first instruction,
  /// its end. Else 0.
  uint64_t main_ns = 0;
  uint64_t running_ns = 0;
  uint64_t ended_ns = 0;
};

struct Contender {
  std::string name;
  /// One run. A run that goes wrong is an error, not a time.
  std::move_only_function<Result<Sample>()> run;
};

/// A process from spawn to reaped, which must end with `code`.
Contender command(std::string name, std::vector<std::string> argv, int code = 0);

/// samples[i][r] is contender i in round r. One run of each beforehand does not count. Stops at the
/// first error.
Result<std::vector<std::vector<Sample>>> run_rounds(std::vector<Contender>& contenders,
                                                    uint32_t rounds);

/// The value below which `part` of the values are; `values` is not empty.
double quantile(std::vector<double> values, double part);

}  // namespace mayfly::perf
