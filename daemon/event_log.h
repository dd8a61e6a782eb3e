// SPDX-License-Identifier: Apache-2.0
//
// The last kMaxEvents things that happened to VMs, numbered from 1 within an epoch (one run of the
// daemon). append() comes from any thread and never blocks on a reader; a reader too slow learns
// how much it lost.
#pragma once

#include "base/error.h"
#include "daemon/call.h"
#include "daemon/vm_view.h"

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <variant>

namespace mayfly::daemon {

inline constexpr size_t kMaxEvents = 4096;

struct StateChanged {
  VmState from = VmState::kCreating;
  VmState to = VmState::kCreating;
};
struct VmDeleted {};
/// A monitor's filter stopped it; the exit follows.
struct SyscallDenied {
  // Whether the monitor could say which.
  bool told = false;
  DeniedSyscall syscall;
};
/// The numbers are mayfly.v1.SnapshotPhase's.
enum class SnapshotPhase : uint8_t {
  kStarted = 1,
  kMemory = 2,
  kSync = 3,
  kFinished = 4,
  kFailed = 5,
  kCancelled = 6,
};
/// How far a CreateSnapshot is.
struct SnapshotProgress {
  std::string snapshot_id;
  SnapshotPhase phase = SnapshotPhase::kStarted;
  uint64_t done_bytes = 0;
  uint64_t total_bytes = 0;
  // Of one that has failed or was cancelled.
  std::optional<Error> error;
};
/// One of a template's shells could not be started, or ended while it waited.
struct ShellFailed {
  std::string template_id;
  std::string reason;
  std::string message;
};
/// Events that cannot be given any more; 0: unknown how many, since the daemon was started anew.
struct EventGap {
  uint64_t lost = 0;
};

struct Event {
  uint64_t sequence = 0;
  int64_t unix_us = 0;
  // Empty: of no VM.
  std::string vm_id;
  std::string incarnation;
  std::variant<StateChanged, GuestInfo, VmExit, VmDeleted, SyscallDenied, SnapshotProgress,
               ShellFailed, EventGap>
      what;
};

/// A reader's place. Owned and used by one thread.
struct EventCursor {
  uint64_t next_sequence = 1;
  // The resume token was of another epoch: the first event is a gap.
  bool epoch_changed = false;
};

class EventLog {
 public:
  explicit EventLog(std::string epoch) : epoch_(std::move(epoch)) {}

  const std::string& epoch() const { return epoch_; }

  /// Numbers it and stamps it with the time.
  void append(Event event);

  EventCursor from_now() const;
  EventCursor from_oldest() const;
  /// INVALID_ARGUMENT where the token is none of ours.
  Result<EventCursor> from_token(const std::string& token) const;
  std::string token_after(uint64_t sequence) const;

  /// The next event or gap, waiting for it as long as `call` allows.
  Result<Event> next(EventCursor& cursor, const Call& call) const;

  /// Every waiting reader fails with UNAVAILABLE from now on.
  void close();

 private:
  const std::string epoch_;
  mutable std::mutex mutex_;
  mutable std::condition_variable appended_;
  // Guarded by mutex_; the newest has sequence next_sequence_ - 1.
  std::deque<Event> events_;
  uint64_t next_sequence_ = 1;
  bool closed_ = false;
};

}  // namespace mayfly::daemon
