// SPDX-License-Identifier: Apache-2.0
//
// Bounded reads from a kernel or initrd file, whose offsets are the file's own claims.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "base/memory/guest_memory.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace mayfly::boot {

/// Exactly `out.size()` bytes at `offset`; a short file is an error that says "truncated".
Result<> read_image(FdRef file, std::span<std::byte> out, uint64_t offset);

template <typename T>
Result<T> read_object(FdRef file, uint64_t offset) {
  T value;
  TRY(read_image(file, std::as_writable_bytes(std::span<T, 1>(&value, 1)), offset));
  return value;
}

/// Fills a piece of guest RAM from the file, without a copy of ours in between.
Result<> read_into(FdRef file, const GuestSpan& span, uint64_t offset);

}  // namespace mayfly::boot
