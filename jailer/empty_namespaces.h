// SPDX-License-Identifier: Apache-2.0
//
// The namespaces with nothing in them that a root daemon makes once, and every jail it launches
// shares or copies.
//
// The mount namespace is copied by each jail: a copy of one mount, however many the host has.
//
// The network namespace is shared, because a new one costs 0.6 ms in the launch, more than all the
// other steps of the jail together, and its end costs the kernel's one worker for that several
// milliseconds more. It is as good as an own one: no interface in it is up, not even loopback, and
// the jailed have no capability to change that, so no packet travels. What could join two jails in
// it is an abstract Unix socket: the monitor's seccomp filter denies socket(), and Landlock
// (version 6) scopes them.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "jailer/launch.h"

namespace mayfly::jailer {

struct EmptyNamespaces {
  Fd mount;
  Fd network;

  SharedNamespaces shared() const { return {mount.ref(), network.ref()}; }
};

/// Any thread of a process with CAP_SYS_ADMIN, and none of its threads moves: a thread made for
/// this enters the new namespaces, empties them and ends. The descriptors keep them.
Result<EmptyNamespaces> make_empty_namespaces();

}  // namespace mayfly::jailer
