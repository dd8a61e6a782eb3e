// SPDX-License-Identifier: Apache-2.0
//
// From flags to mayfly.v1.VmSpec: paths made absolute, defaults from the installation.
#pragma once

#include "base/error.h"
#include "cli/flags.h"
#include "cli/private_daemon.h"
#include "mayfly/v1/snapshot.pb.h"
#include "mayfly/v1/vm.pb.h"

#include <string>

namespace mayfly::cli {

/// The kernel defaults to the installation's, and so does the root image, read-only so that many
/// VMs share it, unless an initrd is given. `--rootfs none`: no root image.
Result<v1::VmSpec> make_spec(const VmFlags& flags, const Installation& installation);

v1::ResourceLimits make_limits(const LimitFlags& flags);

/// What a file of metadata holds, for the daemon to check.
Result<std::string> read_metadata(const std::string& path);

/// A path as the daemon takes it; an empty one stays so.
std::string absolute(const std::string& path);

/// Disks and network devices in their order, their paths made absolute.
Result<v1::RestoreOverrides> make_overrides(const RestoreFlags& flags);

}  // namespace mayfly::cli
