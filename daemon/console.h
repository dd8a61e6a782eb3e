// SPDX-License-Identifier: Apache-2.0
//
// A VM's console: the ring file that the monitor writes the guest's output to, and the pipe it
// reads the guest's input from. Any thread; waiting is on a condition variable that the reactor
// wakes.
#pragma once

#include "base/console_ring.h"
#include "base/error.h"
#include "base/fd.h"
#include "daemon/call.h"
#include "daemon/reactor.h"

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>

namespace mayfly::daemon {

struct ConsoleChunk {
  // Where `data` begins in all that the guest ever printed.
  uint64_t offset = 0;
  std::string data;
  // Bytes before `offset` that were asked for and are no longer kept.
  uint64_t lost = 0;
};

class Console {
 public:
  /// Makes the ring file, which must not exist yet, at `path`.
  static Result<std::unique_ptr<Console>> create(Reactor& reactor, const std::string& path,
                                                 uint32_t kib);

  FdRef ring() const { return ring_.ref(); }
  FdRef output_event() const { return event_.ref(); }
  /// The monitor's end of the input; closed by monitor_has_it().
  FdRef input() const { return input_read_.ref(); }
  void monitor_has_it() { input_read_.reset(); }

  /// What is there from `offset` on, at most 64 KiB; empty where there is nothing new.
  ConsoleChunk read(uint64_t offset) const;
  uint64_t end_offset() const { return reader_.written(); }

  /// Waits for output beyond `offset`; false: there is none and will be none.
  Result<bool> wait_beyond(uint64_t offset, const Call& call) const;

  /// Gives all of `bytes` to the guest, waiting as long as `call` allows where it does not read.
  Result<> write_input(std::span<const std::byte> bytes, const Call& call);

  /// The monitor has ended: waits end, input is refused.
  void close();

 private:
  Console(Fd ring, ConsoleRingReader reader, Fd event, Fd input_read, Fd input_write)
      : ring_(std::move(ring)),
        reader_(std::move(reader)),
        event_(std::move(event)),
        input_read_(std::move(input_read)),
        input_write_(std::move(input_write)) {}
  void on_output();

  const Fd ring_;
  const ConsoleRingReader reader_;
  const Fd event_;
  Fd input_read_;

  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  // Guarded by mutex_.
  Fd input_write_;
  bool closed_ = false;

  Watch watch_;
};

}  // namespace mayfly::daemon
