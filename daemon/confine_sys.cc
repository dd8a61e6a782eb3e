// SPDX-License-Identifier: Apache-2.0
#include "daemon/confine_sys.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <iterator>

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

// linux/landlock.h, of which Debian 12's knows the first two ABIs only.
constexpr long kCreateRuleset = 444;
constexpr long kAddRule = 445;
constexpr long kRestrictSelf = 446;
constexpr uint32_t kCreateRulesetVersion = 1;
constexpr int kRulePathBeneath = 1;
constexpr uint64_t kFsExecute = 1 << 0;
constexpr uint64_t kFsMakeChar = 1 << 6;
constexpr uint64_t kFsMakeBlock = 1 << 11;
constexpr uint64_t kFsMakeSym = 1 << 12;
constexpr uint64_t kNetBindTcp = 1 << 0;
constexpr uint64_t kNetConnectTcp = 1 << 1;
constexpr uint64_t kScopeAbstractUnixSocket = 1 << 0;
constexpr uint64_t kScopeSignal = 1 << 1;
constexpr int kAbiWithNet = 4;
constexpr int kAbiWithScope = 6;

struct RulesetAttr {
  uint64_t handled_access_fs;
  uint64_t handled_access_net;
  uint64_t scoped;
};
static_assert(sizeof(RulesetAttr) == 24);

struct [[gnu::packed]] PathBeneathAttr {
  uint64_t allowed_access;
  int32_t parent_fd;
};
static_assert(sizeof(PathBeneathAttr) == 12);

// The size tells the kernel how much of the struct this ABI has.
size_t ruleset_size(int abi) { return abi >= kAbiWithScope ? 24 : abi >= kAbiWithNet ? 16 : 8; }

Result<> failed(const char* what) {
  return fail_errno({Code::kFailedPrecondition, "CONFINE"}, errno, "confine the daemon: %s", what);
}

Result<> restrict_by_landlock(const JailHost& jails) {
  const int abi = landlock_abi();
  RulesetAttr attr = {};
  const bool files = jails.mode() == JailMode::kRoot;
  if (files) attr.handled_access_fs = kFsExecute | kFsMakeChar | kFsMakeBlock | kFsMakeSym;
  if (abi >= kAbiWithNet) attr.handled_access_net = kNetBindTcp | kNetConnectTcp;
  if (abi >= kAbiWithScope) attr.scoped = kScopeAbstractUnixSocket | kScopeSignal;
  if (abi == 0 || (attr.handled_access_fs | attr.handled_access_net | attr.scoped) == 0) return {};
  // SAFETY: the kernel reads as many bytes of attr as it is told, which is no more than it has.
  const Fd ruleset(static_cast<int>(::syscall(kCreateRuleset, &attr, ruleset_size(abi), 0)));
  if (!ruleset.valid()) return failed("landlock_create_ruleset");
  for (const FdRef program : {jails.jailer(), jails.vmm()}) {
    const PathBeneathAttr rule = {.allowed_access = kFsExecute, .parent_fd = program.number()};
    // SAFETY: reads rule, whose size the kernel knows.
    if (files && ::syscall(kAddRule, ruleset.number(), kRulePathBeneath, &rule, 0) != 0)
      return failed("landlock_add_rule");
  }
  if (::syscall(kRestrictSelf, ruleset.number(), 0) != 0) return failed("landlock_restrict_self");
  return {};
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

int landlock_abi() {
  const long abi = ::syscall(kCreateRuleset, nullptr, 0, kCreateRulesetVersion);
  return abi > 0 ? static_cast<int>(abi) : 0;
}

Result<> confine_ourselves(const JailHost& jails) {
  const rlimit none = {.rlim_cur = 0, .rlim_max = 0};
  if (::setrlimit(RLIMIT_CORE, &none) != 0) return failed("RLIMIT_CORE");
  if (::prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0) return failed("PR_SET_DUMPABLE");
  if (::geteuid() == 0) TRY(drop_capabilities());
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return failed("PR_SET_NO_NEW_PRIVS");
  return restrict_by_landlock(jails);
}

}  // namespace mayfly::daemon
