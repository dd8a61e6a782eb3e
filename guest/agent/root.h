// SPDX-License-Identifier: Apache-2.0
//
// PID 1's work between the kernel and the service: the first mounts, modules, the real root.
// Everything here runs once, in order, before any command; it blocks (at most kDeviceTimeoutNs, for
// the root's device).
#pragma once

#include "base/error.h"
#include "guest/agent/cmdline.h"

namespace mayfly::guest {

inline constexpr const char* kModulesDirectory = "/.mayfly/modules";
inline constexpr const char* kRootMountPoint = "/.mayfly/root";

/// Opens /dev/null as whatever of 0, 1 and 2 the kernel left closed: no later descriptor may become
/// one.
void secure_standard_streams();

/// /dev, /proc and /sys of the initramfs, and what hangs below them.
Result<> mount_kernel_file_systems();

/// Inserts every module of kModulesDirectory in name order. A failed one is logged: what needs it
/// will say so.
void load_modules();

/// Mounts the root that `options` names and makes it "/"; the initramfs is emptied.
Result<> switch_root(const BootOptions& options);

/// tmpfs on /run, and on /tmp unless a real init will see to it, where they exist.
void mount_scratch(const BootOptions& options);

/// Ends with every file system read-only or detached and all data on its disk.
void quiesce_file_systems();

/// What /proc/cmdline asks for.
Result<BootOptions> read_boot_options();

}  // namespace mayfly::guest
