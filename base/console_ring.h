// SPDX-License-Identifier: Apache-2.0
//
// The console's output: a ring of bytes in a file that the monitor maps shared and the daemon
// reads. One writer (the monitor's loop thread), any number of readers (the daemon).
//
// The file, little-endian:
//
//   0     u32 magic       "MFCR"
//   4     u32 version     1
//   8     u64 capacity    the size of the ring in bytes: for people with a hex dump only
//   16    u64 written     bytes ever added; byte n of the stream is at ring[n % capacity]
//   24    u64 reserved    `written` as it will be after the append under way; else equal to it
//   4096  ring[capacity]  a power of two from 4 KiB to 16 MiB
//
// An append stores `reserved`, then the bytes, then `written` (release). A reader loads `written`,
// copies, loads `reserved`: what lies below `reserved - capacity` by then may have been overwritten
// while it was copied, and counts as lost.
//
// The monitor is hostile to the reader: its process may write anything into the file and may
// truncate it. So the reader never maps the file, it uses pread(2): a file cut short is an end of
// output, not a SIGBUS, whoever made it and whether or not it is sealed. The capacity is the file's
// size when the reader was made, never the header's word. A lying monitor garbles its own console
// and nothing else.
#pragma once

#include "base/console_ring_sys.h"
#include "base/error.h"
#include "base/fd.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace mayfly {

/// The monitor's end. Threads: one at a time; the loop thread, under the device lock.
class ConsoleRingWriter {
 public:
  /// `ring` is a file as above, opened read-write, whose size says the capacity; it is initialised
  /// to no output. The mapping keeps the file, so `ring` may be closed. `event` is an eventfd and
  /// outlives the writer.
  static Result<ConsoleRingWriter> create(FdRef ring, FdRef event);

  /// Adds `bytes`, overwriting the oldest, then signals the event. Does not fail or block.
  void append(std::span<const std::byte> bytes);

  /// Bytes ever added.
  uint64_t written() const { return written_; }

 private:
  ConsoleRingWriter(ConsoleRingMapping mapping, FdRef event)
      : mapping_(std::move(mapping)), event_(event) {}

  ConsoleRingMapping mapping_;
  FdRef event_;
  uint64_t written_ = 0;
};

/// What a read found.
struct ConsoleRead {
  /// Bytes put into the buffer; the stream's [next_offset - bytes, next_offset).
  size_t bytes = 0;
  /// Where to read on.
  uint64_t next_offset = 0;
  /// Bytes from the asked offset that were overwritten before they could be read; those before
  /// `bytes`.
  uint64_t lost = 0;
};

/// The daemon's end. Const calls may come from any threads at once.
class ConsoleRingReader {
 public:
  /// `ring` is duplicated; the caller keeps its own. The file may not have been initialised yet.
  static Result<ConsoleRingReader> create(FdRef ring);

  uint64_t capacity() const { return capacity_; }

  /// Bytes ever added; 0 before the monitor has begun, or where the file cannot be read.
  uint64_t written() const;

  /// Copies what there is from `offset` of the stream on, as much as `out` holds: whole or lost,
  /// never torn. Nothing (no bytes, no loss, next_offset == offset) where the stream ends at or
  /// before `offset`. Where there is something, the call makes progress, whatever the monitor does.
  ConsoleRead read(uint64_t offset, std::span<std::byte> out) const;

 private:
  ConsoleRingReader(Fd ring, uint64_t capacity) : ring_(std::move(ring)), capacity_(capacity) {}

  struct Counters {
    uint64_t written = 0;
    uint64_t reserved = 0;
  };
  Counters counters() const;
  bool copy_out(uint64_t offset, std::span<std::byte> out) const;

  Fd ring_;
  uint64_t capacity_ = 0;
};

}  // namespace mayfly
