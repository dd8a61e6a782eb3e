// SPDX-License-Identifier: Apache-2.0
#include "jailer/empty_namespaces.h"

#include "jailer/empty_root_sys.h"

#include <cerrno>
#include <optional>
#include <thread>

#include <fcntl.h>
#include <sched.h>

namespace mayfly::jailer {
namespace {

/// Runs on a thread of its own, which nothing else uses afterwards.
Result<EmptyNamespaces> make_on_this_thread() {
  // A new mount namespace takes the thread's root and working directory apart from the process's.
  if (::unshare(CLONE_NEWNS | CLONE_NEWNET) != 0) {
    return fail_errno({Code::kFailedPrecondition, "EMPTY_NAMESPACES"}, errno,
                      "make empty mount and network namespaces");
  }
  // Before the root with /proc is gone.
  EmptyNamespaces made;
  made.mount = TRY(Fd::open("/proc/thread-self/ns/mnt", O_RDONLY));
  made.network = TRY(Fd::open("/proc/thread-self/ns/net", O_RDONLY));
  TRY(make_root_empty());
  return made;
}

}  // namespace

Result<EmptyNamespaces> make_empty_namespaces() {
  std::optional<Result<EmptyNamespaces>> made;
  std::thread([&] { made.emplace(make_on_this_thread()); }).join();
  return *std::move(made);
}

}  // namespace mayfly::jailer
