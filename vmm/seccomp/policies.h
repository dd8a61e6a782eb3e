// SPDX-License-Identifier: Apache-2.0
//
// Which rules bind which kind of thread. Linked only by the compiler of the filters and by tests:
// the monitor has the programs (confinement.h), not the rules.
//
// Filters stack, and a call has to pass all of them: a thread starts under its creator's. `start`
// therefore contains the others. A new kind of thread or phase is a row here and an enumerator in
// thread_kind.h.
#pragma once

#include "base/seccomp/rule.h"
#include "vmm/seccomp/thread_kind.h"

#include <span>
#include <vector>

namespace mayfly::vmm {

struct Policy {
  ThreadKind kind;
  /// Hottest first: the filter asks in this order.
  std::vector<seccomp::Rule> rules;
};

/// One for each ThreadKind, in its order. No rule twice in a policy.
std::vector<Policy> make_policies();

}  // namespace mayfly::vmm
