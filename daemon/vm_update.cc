// SPDX-License-Identifier: Apache-2.0
//
// What is changed of a VM while it lives: first a check for each part, then its change.
#include "daemon/vm.h"

namespace mayfly::daemon {

Result<VmView> Vm::update(const Update& what, const Call& call, Stopwatch& stopwatch) {
  TRY(wait_created(call));
  {
    std::lock_guard lock(mutex_);
    if (state_ == VmState::kStopped) return std::unexpected(stopped_error("update"));
  }
  if (what.balloon_target_mib) TRY(check_balloon_target(*what.balloon_target_mib));
  if (what.metadata) TRY(check_metadata(*what.metadata));

  if (what.balloon_target_mib) TRY(ask_balloon(what.balloon_target_mib, call));
  stopwatch.lap("monitor");
  if (what.metadata) change_metadata(*what.metadata);
  return asked_view(call);
}

}  // namespace mayfly::daemon
