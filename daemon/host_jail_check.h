// SPDX-License-Identifier: Apache-2.0
//
// What this host has for confining VMs, and what mends what it lacks. Any thread.
#pragma once

#include "daemon/host_check.h"
#include "daemon/jail.h"

#include <vector>

namespace mayfly::daemon {

std::vector<HostCheck> check_jail(const JailHost& jails);

}  // namespace mayfly::daemon
