// SPDX-License-Identifier: Apache-2.0
#include "base/no_new_privs_sys.h"

#include <cerrno>

#include <sys/prctl.h>

namespace mayfly {

Result<> forbid_new_privileges() {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return fail_errno({Code::kInternal, "NO_NEW_PRIVS"}, errno, "set no_new_privs");
  }
  return {};
}

}  // namespace mayfly
