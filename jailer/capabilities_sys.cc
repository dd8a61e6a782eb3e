// SPDX-License-Identifier: Apache-2.0
#include "jailer/capabilities_sys.h"

#include <cerrno>

#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::jailer {
namespace {

// The kernel's 64-bit sets, each as two words.
struct Sets {
  __user_cap_data_struct words[_LINUX_CAPABILITY_U32S_3] = {};
};

__user_cap_header_struct this_process() {
  return {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
}

Result<> set(const Sets& sets) {
  auto header = this_process();
  // SAFETY: the kernel reads one header and, as version 3 says, two data words.
  if (::syscall(SYS_capset, &header, sets.words) == 0) return {};
  return fail_errno({Code::kInternal, "CAPABILITIES"}, errno, "set capabilities");
}

Result<> drop_bounding_set() {
  // The kernel knows how many there are: the first that it does not know ends the loop.
  for (unsigned long capability = 0;; ++capability) {
    if (::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0) continue;
    if (errno == EINVAL && capability > CAP_SYS_ADMIN) return {};
    return fail_errno({Code::kPermissionDenied, "CAPABILITIES"}, errno,
                      "drop capability %lu from the bounding set", capability);
  }
}

}  // namespace

Result<> raise_permitted_capabilities() {
  auto header = this_process();
  Sets sets;
  // SAFETY: the kernel writes two data words, as version 3 says.
  if (::syscall(SYS_capget, &header, sets.words) != 0) {
    return fail_errno({Code::kInternal, "CAPABILITIES"}, errno, "read capabilities");
  }
  for (auto& word : sets.words) word.effective = word.permitted;
  return set(sets);
}

Result<> drop_capabilities() {
  TRY(drop_bounding_set());
  constexpr unsigned long kLocked = SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                                    SECBIT_NO_SETUID_FIXUP_LOCKED | SECBIT_KEEP_CAPS_LOCKED |
                                    SECBIT_NO_CAP_AMBIENT_RAISE |
                                    SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED;
  if (::prctl(PR_SET_SECUREBITS, kLocked, 0, 0, 0) != 0) {
    return fail_errno({Code::kPermissionDenied, "SECUREBITS"}, errno, "lock the securebits");
  }
  // The ambient set goes with the inheritable one: the kernel keeps it below.
  return set({});
}

}  // namespace mayfly::jailer
