// SPDX-License-Identifier: Apache-2.0
//
// The attempts of a monitor that has been taken over to get out, each with what it would give and
// with all that must stand in its way. escapee_test.py runs every attempt against every layer and
// holds this table to the letter: a layer that an attempt names stops it alone, and an attempt that
// names no layer of a kind is not stopped by it.
#pragma once

#include "base/fd.h"
#include "tests/security/ring.h"
#include "tests/security/world.h"

#include <cstdint>
#include <memory>
#include <span>

namespace mayfly::escape {

/// What stops an attempt, by itself.
enum Layer : uint32_t {
  kSeccomp = 1 << 0,       // the filters of loop and vCPU threads
  kBeforeRun = 1 << 1,     // not the filter of the start: a machine is being built with this call
  kRoot = 1 << 2,          // an empty root directory in a mount namespace of its own
  kPids = 1 << 3,          // a PID namespace: other processes have no numbers
  kNetwork = 1 << 4,       // a network namespace with nothing up
  kIpc = 1 << 5,           // an IPC namespace
  kIds = 1 << 6,           // no capability, and a user id that owns nothing
  kOwnId = 1 << 7,         // a user id that is not the daemon's: only where the daemon is root
  kLimits = 1 << 8,        // resource limits
  kLandlock = 1 << 9,      // where the host has it
  kRestriction = 1 << 10,  // what the ring itself was restricted to
  kDescriptor = 1 << 11,   // how a descriptor was opened
};

struct World {
  Targets targets;
  pid_t self = 0;
  Fd pagemap;                  // its own
  std::unique_ptr<Ring> ring;  // the loop's own
  int vm = -1;
  int vcpu = -1;
};

enum class End : uint8_t {
  kEscaped,
  kRefused,
  kMissing,  // this host lacks what it needs
};

struct Outcome {
  End end = End::kMissing;
  const char* what = "";  // the call that decided, or what is missing
  int os_errno = 0;
};

inline Outcome escaped() { return {End::kEscaped, "", 0}; }
inline Outcome missing(const char* what) { return {End::kMissing, what, 0}; }
Outcome refused(const char* call, int os_errno);
/// By a call's result and errno. ENOSYS and the like: missing.
Outcome judge(const char* call, long result);

struct Attempt {
  const char* name;
  const char* gives;  // what a success would give
  uint32_t layers;
  Outcome (*make)(World& world);
};

std::span<const Attempt> file_attempts();
std::span<const Attempt> process_attempts();
std::span<const Attempt> namespace_attempts();
std::span<const Attempt> privilege_attempts();
std::span<const Attempt> network_attempts();
std::span<const Attempt> memory_attempts();
std::span<const Attempt> descriptor_attempts();
std::span<const Attempt> kernel_attempts();
std::span<const Attempt> kvm_attempts();
std::span<const Attempt> ring_attempts();

/// Each of the above.
std::span<const std::span<const Attempt>> all_attempts();
const Attempt* find_attempt(const char* name);

}  // namespace mayfly::escape
