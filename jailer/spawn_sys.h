// SPDX-License-Identifier: Apache-2.0
//
// The part of launch() between clone3() and execveat(): a child that runs in our memory while the
// calling thread sleeps, so that no page table is copied, however large the daemon is.
#pragma once

#include "base/fd.h"

#include <cstdint>
#include <expected>
#include <span>
#include <vector>

#include <sys/types.h>

namespace mayfly::jailer {

struct Spawn {
  // CLONE_NEW*.
  uint64_t namespaces = 0;
  // Born into this cgroup v2 directory; invalid: ours.
  FdRef cgroup;
  // Become standard input, output and error; an invalid one is inherited.
  FdRef standard[3];
  // Become 3, 4, ...
  std::span<const FdRef> inherited;
  // In a new user namespace an exec takes what the clone gave: keep what the jailer needs.
  bool keep_capabilities = false;
  FdRef program;
  // argv[0] included.
  std::vector<const char*> arguments;
};

enum class SpawnStep : uint8_t { kClone, kSession, kDescriptors, kSignals, kCapabilities, kExec };

struct SpawnFailure {
  SpawnStep step;
  int os_errno;
};

struct Spawned {
  pid_t pid = 0;
  Fd pidfd;
};

/// The child has executed `program`, or there is none. At most kMaxSpawnDescriptors `inherited`.
std::expected<Spawned, SpawnFailure> spawn(const Spawn& plan);

inline constexpr size_t kMaxSpawnDescriptors = 32;

}  // namespace mayfly::jailer
