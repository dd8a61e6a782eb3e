// SPDX-License-Identifier: Apache-2.0
//
// The writer's mapping of a console ring file (base/console_ring.h): all of its pointers are here.
// Offsets are checked; a wrong one is our own bug. Threads: as ConsoleRingWriter.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace mayfly {

inline constexpr uint32_t kConsoleRingMagic = 0x5243'464d;  // "MFCR"
inline constexpr uint32_t kConsoleRingVersion = 1;
inline constexpr uint64_t kConsoleRingHeaderSize = 4096;
inline constexpr uint64_t kConsoleRingMinCapacity = 4096;
inline constexpr uint64_t kConsoleRingMaxCapacity = 16 * 1024 * 1024;

struct ConsoleRingHeader {
  uint32_t magic;
  uint32_t version;
  uint64_t capacity;
  uint64_t written;
  uint64_t reserved;
};
static_assert(sizeof(ConsoleRingHeader) == 32);
static_assert(offsetof(ConsoleRingHeader, capacity) == 8);
static_assert(offsetof(ConsoleRingHeader, written) == 16);
static_assert(offsetof(ConsoleRingHeader, reserved) == 24);

/// The ring's capacity by the file's size, or kInvalidArgument where the size is not a ring's.
Result<uint64_t> console_ring_capacity(FdRef ring);

class ConsoleRingMapping {
 public:
  /// Maps the whole file shared and writes a fresh header.
  static Result<ConsoleRingMapping> create(FdRef ring);
  ~ConsoleRingMapping();
  ConsoleRingMapping(ConsoleRingMapping&& other) noexcept;
  ConsoleRingMapping(const ConsoleRingMapping&) = delete;
  ConsoleRingMapping& operator=(const ConsoleRingMapping&) = delete;

  uint64_t capacity() const { return capacity_; }

  /// Says, before any byte of it is written, how far an append will go.
  void reserve(uint64_t total);
  /// Copies `bytes` to ring[position]; they do not wrap.
  void copy_in(uint64_t position, std::span<const std::byte> bytes);
  /// Makes everything copied so far visible.
  void publish(uint64_t total);

 private:
  ConsoleRingMapping(std::byte* base, uint64_t capacity) : base_(base), capacity_(capacity) {}
  ConsoleRingHeader& header();

  std::byte* base_ = nullptr;
  uint64_t capacity_ = 0;
};

}  // namespace mayfly
