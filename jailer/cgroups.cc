// SPDX-License-Identifier: Apache-2.0
#include "jailer/cgroups.h"

#include <cerrno>

#include <unistd.h>

namespace mayfly::jailer {

Result<> join_cgroups(const JailSpec& spec) {
  for (size_t i = 0; i < spec.cgroup_procs.size(); ++i) {
    // "0" is the writer, whatever its number is in the PID namespace of whoever reads it.
    if (::write(spec.cgroup_procs[i], "0", 1) != 1) {
      return fail_errno({Code::kFailedPrecondition, "CGROUP_REFUSED"}, errno,
                        "--cgroup-procs-fd=%d: enter the cgroup", spec.cgroup_procs[i]);
    }
  }
  return {};
}

}  // namespace mayfly::jailer
