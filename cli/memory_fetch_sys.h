// SPDX-License-Identifier: Apache-2.0
//
// The other end of MemoryService.ExportMemory: fetches the descriptors (docs/memory.md describes
// them) and writes what they hold to one file. One thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstdint>
#include <string>

namespace mayfly::cli {

struct FetchedMemory {
  Fd memory;
  // Invalid: there is no layer over it.
  Fd layer;
  Fd layer_pages;
};

/// Connects to the socket that ExportMemory named.
Result<FetchedMemory> fetch_memory(const std::string& socket_path);

/// All of the memory, the layer over it, into a new sparse file.
Result<> write_memory(const FetchedMemory& memory, uint64_t size_bytes, const std::string& path);

}  // namespace mayfly::cli
