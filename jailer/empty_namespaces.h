// SPDX-License-Identifier: Apache-2.0
//
// The namespaces with nothing in them that a root daemon makes once, and every jail it launches
// then shares.
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

/// Any thread of a process with CAP_SYS_ADMIN, which stays where it is: a thread of its own moves
/// into the new namespaces, empties them and ends. What launch() is given must not outlive the
/// result.
Result<EmptyNamespaces> make_empty_namespaces();

}  // namespace mayfly::jailer
