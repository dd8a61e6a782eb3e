// SPDX-License-Identifier: Apache-2.0
//
// A VM as callers see it: plain values, copied out under the VM's lock. Any thread.
#pragma once

#include "daemon/control_codec.h"
#include "daemon/jail.h"
#include "daemon/memory_source.h"
#include "daemon/metadata.h"
#include "daemon/spec.h"
#include "daemon/vm_net.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <sys/types.h>

namespace mayfly::daemon {

/// The numbers are mayfly.v1.VmState's.
enum class VmState : uint8_t {
  kCreating = 1,
  kCreated = 2,
  kRunning = 3,
  kPaused = 4,
  kStopped = 5,
};

/// "RUNNING" and so on.
const char* state_name(VmState state);

struct GuestInfo {
  std::string agent_version;
  std::string kernel_release;
  uint32_t cpu_count = 0;
  uint64_t init_us = 0;
  uint64_t ready_us = 0;
  uint64_t start_to_ready_us = 0;
  std::string failure;
};

struct VmExit {
  ExitReason reason = ExitReason::kUnspecified;
  std::string detail;
  int signal = 0;
  int exit_status = 0;
  std::string stderr_tail;
  std::optional<MonitorStats> stats;
  std::optional<DeniedSyscall> denied_syscall;
  int64_t unix_us = 0;
};

struct LazyMemoryView {
  FillProgress progress;
  bool is_complete = false;
};

/// What a VM's balloon is like: the monitor's word, and the guest's.
using BalloonView = MonitorBalloon;

struct VmView {
  std::string id;
  std::string incarnation;
  VmState state = VmState::kCreating;
  VmSpec spec;
  std::string cmdline;
  int64_t create_unix_us = 0;
  pid_t monitor_pid = 0;
  std::optional<GuestInfo> guest;
  std::optional<VmExit> exit;
  std::optional<JailView> jail;
  // Of a VM that was not booted: the snapshot or VM that it goes on from.
  std::string restored_from;
  // It has confirmed that it has random numbers and the time of its own.
  bool reseeded = false;
  // Empty: not by a template.
  std::string template_id;
  // Of its memory, before it ran.
  uint64_t copied_bytes = 0;
  // One that had waited was claimed for it.
  bool from_shell = false;
  // Of a VM whose memory came, or comes, as it runs.
  std::optional<LazyMemoryView> lazy_memory;
  // Of the places of spec.nets.
  std::vector<NetView> nets;
  // Absent: it has none.
  std::optional<MetadataView> metadata;
  // Where the monitor was asked, and has said it.
  std::optional<BalloonView> balloon;
};

struct Phase {
  std::string name;
  uint64_t duration_us = 0;
};

struct PhaseTimes {
  std::vector<Phase> phases;
  uint64_t total_us = 0;
};

/// What every lifecycle call answers.
struct VmOutcome {
  VmView vm;
  PhaseTimes times;
};

/// Microseconds since 1970.
int64_t unix_now_us();

/// Names the steps of one call, each from the end of the one before. One thread.
class Stopwatch {
 public:
  Stopwatch();
  /// The step called `name` ends now, or, where given, at a CLOCK_MONOTONIC time.
  void lap(const char* name);
  void lap_at(const char* name, uint64_t now_ns);
  PhaseTimes times() const;
  uint64_t start_ns() const { return start_ns_; }

 private:
  uint64_t start_ns_;
  uint64_t last_ns_;
  std::vector<Phase> phases_;
};

}  // namespace mayfly::daemon
