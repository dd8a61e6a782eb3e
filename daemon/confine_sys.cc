// SPDX-License-Identifier: Apache-2.0
#include "daemon/confine_sys.h"

#include "base/landlock_sys.h"
#include "base/no_new_privs_sys.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <iterator>
#include <span>

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

Result<> failed(const char* what) {
  return fail_errno({Code::kFailedPrecondition, "CONFINE"}, errno, "confine the daemon: %s", what);
}

Result<> restrict_by_landlock(const JailHost& jails) {
  if (landlock::version() == 0) return {};
  const bool files = jails.mode() == JailMode::kRoot;
  landlock::Rights denied = landlock::all_rights();
  denied.file_system =
      files ? landlock::kExecute | landlock::kMakeChar | landlock::kMakeBlock | landlock::kMakeSym
            : 0;
  if (denied == landlock::Rights()) return {};
  const landlock::Exception programs[] = {{jails.jailer(), landlock::kExecute},
                                          {jails.vmm(), landlock::kExecute}};
  return landlock::restrict_self(denied,
                                 std::span(programs).first(files ? std::size(programs) : 0));
}

Result<> drop_capabilities() {
  const auto kept = [](int number) {
    return std::any_of(std::begin(kKeptCapabilities), std::end(kKeptCapabilities),
                       [&](const KeptCapability& each) { return each.number == number; });
  };
  // From the bounding set first, as long as we may. PR_CAPBSET_READ fails past the last one.
  for (int number = 0; ::prctl(PR_CAPBSET_READ, number, 0, 0, 0) >= 0; ++number) {
    if (kept(number) || ::prctl(PR_CAPBSET_READ, number, 0, 0, 0) == 0) continue;
    if (::prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0) return failed("PR_CAPBSET_DROP");
  }
  ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);  // Where there are none, fine.
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct sets[2] = {};
  // SAFETY: version 3 reads and writes two of the structs.
  if (::syscall(SYS_capget, &header, sets) != 0) return failed("capget");
  uint32_t keep[2] = {};
  for (const KeptCapability& each : kKeptCapabilities)
    keep[each.number / 32] |= 1u << (each.number % 32);
  for (int i = 0; i < 2; ++i) {
    sets[i].permitted &= keep[i];
    sets[i].effective = sets[i].permitted;
    sets[i].inheritable = 0;
  }
  if (::syscall(SYS_capset, &header, sets) != 0) return failed("capset");
  return {};
}

}  // namespace

Result<> confine_ourselves(const JailHost& jails) {
  const rlimit none = {.rlim_cur = 0, .rlim_max = 0};
  if (::setrlimit(RLIMIT_CORE, &none) != 0) return failed("RLIMIT_CORE");
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return failed("PR_SET_DUMPABLE");
  if (::geteuid() == 0) TRY(drop_capabilities());
  TRY(forbid_new_privileges());
  return restrict_by_landlock(jails);
}

}  // namespace mayfly::daemon
