// SPDX-License-Identifier: Apache-2.0
//
// The commands about the memory of VMs. Each gives the program's exit code.
#pragma once

#include "cli/flags.h"

#include <string>

namespace mayfly::cli {

int describe_memory(const GlobalFlags& global, const MemoryFlags& flags);
int query_pages(const GlobalFlags& global, const MemoryFlags& flags);
int export_memory(const GlobalFlags& global, const MemoryFlags& flags);
int memory_usage(const GlobalFlags& global);

}  // namespace mayfly::cli
