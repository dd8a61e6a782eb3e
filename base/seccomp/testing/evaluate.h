// SPDX-License-Identifier: Apache-2.0
//
// Runs a filter on a call as the kernel would: the instructions of classic BPF that seccomp accepts
// (linux/filter.h, kernel/seccomp.c), over struct seccomp_data.
#pragma once

#include "base/seccomp/filter_sys.h"

#include <cstdint>

#include <linux/seccomp.h>

namespace mayfly::seccomp {

struct Evaluation {
  uint32_t answer;  // SECCOMP_RET_... and its data
  uint32_t instructions;
};

/// Comparisons with the process's id use `pid`. CHECKs that the program stays inside itself and has
/// no instruction that seccomp would refuse.
Evaluation evaluate(const Filter& filter, const seccomp_data& call, uint32_t pid);

}  // namespace mayfly::seccomp
