// SPDX-License-Identifier: Apache-2.0
//
// Programs timed against each other, from spawn to reaped, interleaved: each round runs every
// contender once, so what the machine does meanwhile strikes all alike.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"

namespace mayfly::perf {

struct Contender {
  std::string name;
  std::vector<std::string> argv;
  /// What a good run ends with.
  int exit_code = 0;
};

struct Sample {
  uint64_t wall_ns = 0;
  /// User and system time of the process and the children it reaped.
  uint64_t cpu_ns = 0;
};

/// samples[i][r] is contender i in round r. The first round is run twice and its first half
/// forgotten. A run that ends otherwise than with its exit code is an error.
Result<std::vector<std::vector<Sample>>> run_rounds(const std::vector<Contender>& contenders,
                                                    uint32_t rounds);

/// Spawns, waits, measures.
Result<Sample> run_once(const Contender& contender);

/// The value below which `part` of the values are; `values` is not empty.
double quantile(std::vector<double> values, double part);

}  // namespace mayfly::perf
