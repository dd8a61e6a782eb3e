// SPDX-License-Identifier: Apache-2.0
//
// What this host's KVM offers to a VM, to be held against what a snapshot needs; and what a saved
// machine needs of a host. Any thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "snapshot/host.h"
#include "snapshot/state.h"

#include <string>

namespace mayfly::daemon {

/// Makes a VM and a vCPU for it. FAILED_PRECONDITION KVM_MISSING where that cannot be done.
Result<snapshot::HostDescription> describe_host(const std::string& kvm_device);

/// `state` has at least one vCPU, and is as hostile as the monitor that wrote it.
snapshot::HostRequirements requirements_of(const snapshot::MachineState& state, uint32_t tsc_khz);

}  // namespace mayfly::daemon
