// SPDX-License-Identifier: Apache-2.0
//
// The state that a monitor wrote, which is as hostile as the monitor may be. Any thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/spec.h"
#include "daemon/vm_memory.h"
#include "daemon/vm_view.h"
#include "snapshot/manifest.h"
#include "snapshot/state.h"

#include <span>
#include <string>

namespace mayfly::daemon {

/// Reads the part `state`, and holds its vCPUs and disks against the VM's. UNAVAILABLE SAVED_STATE
/// where they do not fit.
Result<snapshot::MachineState> read_saved_state(FdRef file, const VmSpec& spec);

/// As a sealed memfd, for monitors.
Result<Fd> state_file(const snapshot::MachineState& state);

/// What a manifest says of the machine; `spec` and `state` fit.
snapshot::MachineInfo machine_info(const VmSpec& spec, const std::string& cmdline,
                                   const snapshot::MachineState& state);

/// Says which disks were captured. UNAVAILABLE SAVED_STATE where the monitor has a disk's size
/// wrong.
Result<> mark_captured(std::span<const DiskCapture> captures, snapshot::MachineInfo& machine);

/// The spec of a VM that goes on from such a machine; its disks have no paths yet, and those that
/// were captured are its own.
/// FAILED_PRECONDITION where this daemon makes no such VM.
Result<VmSpec> spec_of(const snapshot::MachineInfo& machine);

}  // namespace mayfly::daemon
