// SPDX-License-Identifier: Apache-2.0
//
// Layers of a memory (machine/config.h): what of guest RAM is private out into one, and a layer in
// over guest RAM. A layer's files are untrusted.
//
// Threads: the loop thread, while no vCPU runs and no device touches RAM.
#pragma once

#include "base/error.h"
#include "base/memory/guest_memory.h"
#include "vmm/machine/config.h"

#include <cstdint>

namespace mayfly {

/// Private RAM, what it was made from, and this process's own page map.
struct PrivateMemory {
  const GuestMemory& memory;
  FdRef file;
  FdRef pagemap;
};

/// Copies the pages that this process alone has, whoever wrote them, and says how many they are.
/// Of RAM's copied chunks only those that are not as in its file.
/// kFailedPrecondition NO_PAGEMAP where it has none, kInvalidArgument FILE_LENGTH where a file is
/// not as long as it must be, kResourceExhausted NO_SPACE where a disk is full.
Result<uint64_t> write_layer(const PrivateMemory& from, const ChangedPages& to);

/// Copies the layer's pages over RAM. kInvalidArgument FILE_LENGTH as above, kDataLoss where its
/// bits go beyond RAM.
Result<> read_layer(const GuestMemory& memory, const MemoryLayer& layer);

/// kInvalidArgument FILE_LENGTH where it is not a file of `wanted` bytes; `field` names it. Leaves
/// its position at the end.
Result<> expect_length(FdRef file, uint64_t wanted, const char* field);

/// Through short writes and EINTR; a full disk is kResourceExhausted NO_SPACE.
Result<> write_file_at(FdRef file, std::span<const std::byte> bytes, uint64_t offset);

}  // namespace mayfly
