// SPDX-License-Identifier: Apache-2.0
//
// What the daemon takes from itself once it has what only full privileges give, before it has
// threads: they inherit it, and so does all that it executes.
#pragma once

#include "base/error.h"
#include "daemon/jail.h"

#include <linux/capability.h>

namespace mayfly::daemon {

struct KeptCapability {
  int number;
  const char* name;
  const char* reason;
};

/// All that a root daemon keeps; examples/systemd/mayflyd.service has the same list.
inline constexpr KeptCapability kKeptCapabilities[] = {
    {CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE", "kernels and images are other users' files"},
    {CAP_KILL, "CAP_KILL", "monitors have other ids"},
    {CAP_SETGID, "CAP_SETGID", "the jailer takes its VM's group"},
    {CAP_SETUID, "CAP_SETUID", "the jailer takes its VM's user"},
    {CAP_SETPCAP, "CAP_SETPCAP", "the jailer empties the bounding set"},
    {CAP_NET_ADMIN, "CAP_NET_ADMIN", "tap devices are made, set up and attached"},
    {CAP_SYS_CHROOT, "CAP_SYS_CHROOT", "setns() into the empty mount namespace"},
    {CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "namespaces are made and entered"},
};

/// No core files (they would hold guests' secrets), no tracing by our own user's processes, no
/// privileges from set-uid programs; no capability but those above; and, where the kernel has
/// Landlock, nothing to execute but the two programs, no device nodes and symbolic links, no TCP,
/// and no signals or abstract sockets to processes that we did not start.
///
/// Landlock's part about files is for mode root alone: it forbids mount(2), which a jailer needs
/// that makes its own empty root.
Result<> confine_ourselves(const JailHost& jails);

}  // namespace mayfly::daemon
