// SPDX-License-Identifier: Apache-2.0
//
// Starts a mayfly-vmm with the probe (or any kernel) as the daemon would, waits for its end and
// collects what it left: for tests and measurements without a daemon. One thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "jailer/launch.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace mayfly::probe {

struct LaunchDisk {
  std::string path;
  bool read_only = false;
};

/// Through the jailer, as a root daemon launches (jailer/launch.h); the descriptors are borrowed.
struct LaunchJail {
  FdRef jailer;
  FdRef monitor;
  jailer::SharedNamespaces namespaces;
  uid_t uid = 0;
};

/// What Save left: a machine with the same devices goes on from there.
struct LaunchSaved {
  std::string state;
  std::string memory;
};

struct LaunchOptions {
  /// The mayfly-vmm to run; not looked at with `jail`.
  std::string monitor;
  /// Absent: an ordinary process.
  std::optional<LaunchJail> jail;
  std::string kernel;
  /// In place of a boot.
  std::optional<LaunchSaved> saved;
  std::string command_line;
  uint64_t memory_bytes = uint64_t{128} << 20;
  std::vector<LaunchDisk> disks;
  bool has_rng = true;
  /// 0: no vsock device.
  uint64_t guest_cid = 0;
  /// The process is killed after this long.
  uint64_t timeout_ms = 30'000;
};

struct LaunchResult {
  /// As of waitpid(2).
  int wait_status = 0;
  /// Number and name of control.proto's ExitReason; 0 where the monitor left no report.
  int exit_reason = 0;
  std::string exit_reason_name;
  std::string detail;
  /// What the guest wrote to its console (its end, if it was more than 64 KiB).
  std::string console;
  /// An error that the monitor answered Configure with.
  std::string refusal;
  /// From before the launch until the process is reaped, and the process's own time.
  uint64_t wall_ns = 0;
  uint64_t cpu_ns = 0;
  uint64_t minor_faults = 0;
  /// From the launch to main(), to the guest's first entry and to its end, by the monitor's own
  /// clock readings.
  uint64_t main_ns = 0;
  uint64_t running_ns = 0;
  uint64_t ended_ns = 0;
  uint64_t exits_io = 0;
  uint64_t exits_mmio = 0;
};

/// An Error: the launch itself failed. How the guest fared is in the result.
Result<LaunchResult> launch(const LaunchOptions& options);

}  // namespace mayfly::probe
