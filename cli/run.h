// SPDX-License-Identifier: Apache-2.0
//
// `mayfly run`: a VM for one command, made and removed around it.
#pragma once

#include "cli/flags.h"

#include <chrono>
#include <string>

namespace mayfly::cli {

/// Gives the program's exit code.
int run(const GlobalFlags& global, const RunFlags& flags);

/// `mayfly exec`: a command in a VM that runs already.
int exec(const GlobalFlags& global, const std::string& vm_id, const CommandFlags& flags);

/// The deadline that --timeout gives, or none.
std::chrono::system_clock::time_point deadline_of(const GlobalFlags& global);

}  // namespace mayfly::cli
