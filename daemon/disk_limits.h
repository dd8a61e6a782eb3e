// SPDX-License-Identifier: Apache-2.0
//
// From limits by disk to limits by the host's block device, which is what the kernel counts by. Any
// thread.
#pragma once

#include "base/error.h"
#include "daemon/cgroup.h"
#include "daemon/spec.h"

#include <string>
#include <vector>

#include <sys/types.h>

namespace mayfly::daemon {

/// The whole device (a partition's disk) behind an open file or block device. FAILED_PRECONDITION
/// where there is none that the kernel could limit: tmpfs, overlayfs, network file systems, and
/// those of several devices. `sys` is /sys; `field` is named in the refusal.
Result<dev_t> backing_device(FdRef file, const char* field, const std::string& sys);

/// Disks on one device are added up; refused where one of them has a limit that another lacks,
/// which would then be limited with it.
Result<std::vector<DeviceLimits>> device_limits(const VmSpec& spec, const SpecFiles& files);

}  // namespace mayfly::daemon
