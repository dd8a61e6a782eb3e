// SPDX-License-Identifier: Apache-2.0
//
// The state that a monitor wrote, which is as hostile as the monitor may be. Any thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/spec.h"
#include "daemon/vm_view.h"
#include "snapshot/manifest.h"
#include "snapshot/state.h"

#include <string>

namespace mayfly::daemon {

/// What is on a disk is not saved: FAILED_PRECONDITION WRITABLE_DISK for one that the VM can write
/// to, unless the caller keeps what is on it.
Result<> check_saved_disks(const VmView& vm, bool caller_keeps_disks);

/// Reads the part `state`, and holds its vCPUs and disks against the VM's. UNAVAILABLE SAVED_STATE
/// where they do not fit.
Result<snapshot::MachineState> read_saved_state(FdRef file, const VmSpec& spec);

/// As a sealed memfd, for monitors.
Result<Fd> state_file(const snapshot::MachineState& state);

/// What a manifest says of the machine; `spec` and `state` fit.
snapshot::MachineInfo machine_info(const VmSpec& spec, const std::string& cmdline,
                                   const snapshot::MachineState& state);

/// The spec of a VM that goes on from such a machine; its disks have no paths yet.
/// FAILED_PRECONDITION where this daemon makes no such VM.
Result<VmSpec> spec_of(const snapshot::MachineInfo& machine);

}  // namespace mayfly::daemon
