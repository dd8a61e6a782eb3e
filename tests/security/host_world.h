// SPDX-License-Identifier: Apache-2.0
//
// The host's side of an attempt: everything it goes for really exists, and everything a monitor
// holds really is what a monitor would hold.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "tests/security/world.h"

#include <memory>
#include <string>
#include <vector>

#include <sys/types.h>

namespace mayfly::escape {

/// Strict: as a monitor gets it. Loose: without what descriptors by themselves forbid, as a proof
/// that the attempts on them are real.
enum class Looseness : uint8_t { kStrict, kLoose };

class HostWorld {
 public:
  /// In `directory`, which exists and is the caller's. What it makes belongs to who calls.
  static Result<std::unique_ptr<HostWorld>> create(const std::string& directory, Fd kvm,
                                                   Looseness looseness);
  /// Takes everything back: processes, IPC objects. Files stay in the directory.
  ~HostWorld();

  /// Who is to be attacked beside the daemon. Before descriptors().
  void set_neighbour(pid_t neighbour) { targets_.neighbour = neighbour; }

  /// What the escapee inherits, for the numbers from kControl on; files as they were at the
  /// beginning.
  Result<std::vector<Fd>> descriptors();

 private:
  HostWorld() = default;
  Result<> start_daemon();
  Result<> make_files();
  Result<> make_sockets();
  Result<> make_ipc();
  std::string path(const char* name) const { return directory_ + "/" + name; }

  std::string directory_;
  Looseness looseness_ = Looseness::kStrict;
  Fd kvm_;
  Targets targets_;
  std::vector<Fd> listeners_;
  std::vector<Fd> peers_;  // the far ends of what the escapee holds
  int segment_ = -1;
  int message_queue_ = -1;
  int semaphores_ = -1;
};

}  // namespace mayfly::escape
