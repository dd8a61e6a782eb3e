// SPDX-License-Identifier: Apache-2.0
#include "tests/security/attempt.h"

#include <cerrno>
#include <csignal>
#include <ctime>

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

namespace mayfly::escape {
namespace {

Outcome become_root(World&) { return judge("setresuid", ::syscall(SYS_setresuid, 0, 0, 0)); }
Outcome become_root_plainly(World&) { return judge("setuid", ::syscall(SYS_setuid, 0)); }
Outcome become_root_group(World&) { return judge("setgid", ::syscall(SYS_setgid, 0)); }
Outcome join_groups(World&) {
  const gid_t group = 0;
  return judge("setgroups", ::syscall(SYS_setgroups, 1, &group));
}
Outcome file_user(World&) {
  ::syscall(SYS_setfsuid, 0);
  // It answers with the previous id in any case; the second call tells.
  return ::syscall(SYS_setfsuid, -1) == 0 ? escaped() : refused("setfsuid", EPERM);
}

Outcome take_capability(World&) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2] = {};
  sets[0].effective = sets[0].permitted = 1u << CAP_SYS_ADMIN;
  return judge("capset", ::syscall(SYS_capset, &header, sets));
}
Outcome raise_ambient(World&) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct sets[2] = {};
  ::syscall(SYS_capget, &header, sets);
  sets[0].inheritable = sets[0].permitted;
  ::syscall(SYS_capset, &header, sets);
  return judge("prctl",
               ::syscall(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN, 0, 0));
}
Outcome loosen_securebits(World&) {
  return judge("prctl", ::syscall(SYS_prctl, PR_SET_SECUREBITS, 0, 0, 0, 0));
}
Outcome keep_capabilities(World&) {
  return judge("prctl", ::syscall(SYS_prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0));
}
Outcome become_dumpable(World&) {
  return judge("prctl", ::syscall(SYS_prctl, PR_SET_DUMPABLE, 1, 0, 0, 0));
}
Outcome outlive_parent(World&) {
  return judge("prctl", ::syscall(SYS_prctl, PR_SET_PDEATHSIG, 0, 0, 0, 0));
}

Outcome more_descriptors(World&) {
  const rlimit wanted = {8192, 8192};
  return judge("prlimit64", ::syscall(SYS_prlimit64, 0, RLIMIT_NOFILE, &wanted, nullptr));
}
Outcome real_time(World&) {
  const sched_param parameter = {.sched_priority = 1};
  return judge("sched_setscheduler", ::syscall(SYS_sched_setscheduler, 0, SCHED_FIFO, &parameter));
}
Outcome more_time(World&) {
  return judge("setpriority", ::syscall(SYS_setpriority, PRIO_PROCESS, 0, -10));
}
Outcome real_time_io(World&) {
  constexpr int kProcess = 1;
  constexpr int kRealTimeClass = 1 << 13;
  return judge("ioprio_set", ::syscall(SYS_ioprio_set, kProcess, 0, kRealTimeClass));
}

// A listener answers for the denied calls of the thread: a filter that says yes.
Outcome listen_to_own_filter(World&) {
  sock_filter allow_all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  const sock_fprog program = {1, &allow_all};
  return judge("seccomp", ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                                    SECCOMP_FILTER_FLAG_NEW_LISTENER, &program));
}
Outcome filter_by_prctl(World&) {
  sock_filter allow_all = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
  const sock_fprog program = {1, &allow_all};
  return judge("prctl", ::syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0));
}
Outcome handle_denials(World&) {
  // Of the kernel's layout: handler, flags, restorer, mask. The default for SIGSYS.
  const uint64_t action[4] = {};
  return judge("rt_sigaction", ::syscall(SYS_rt_sigaction, SIGSYS, action, nullptr, 8));
}

Outcome set_clock(World&) {
  timespec now = {};
  if (::syscall(SYS_clock_gettime, CLOCK_REALTIME, &now) < 0) return judge("clock_gettime", -1);
  return judge("clock_settime", ::syscall(SYS_clock_settime, CLOCK_REALTIME, &now));
}
Outcome set_time_zone(World&) {
  const struct timezone utc = {0, 0};
  return judge("settimeofday", ::syscall(SYS_settimeofday, nullptr, &utc));
}

// The permission is looked at first: any other complaint than about it is as good as a success.
Outcome permitted(const char* call, long result) {
  if (result < 0 && (errno == EINVAL || errno == ENOENT || errno == ENOEXEC || errno == EFAULT)) {
    return escaped();
  }
  return judge(call, result);
}

Outcome reboot_host(World&) {
  constexpr unsigned kNoSuchCommand = 0x11223344;
  return permitted("reboot", ::syscall(SYS_reboot, 0xfee1dead, 672274793, kNoSuchCommand, 0));
}
Outcome load_module(World&) {
  return permitted("init_module", ::syscall(SYS_init_module, "not a module", 12, ""));
}
Outcome load_module_file(World&) {
  return permitted("finit_module", ::syscall(SYS_finit_module, kReadOnlyDisk, "", 0));
}
Outcome remove_module(World&) {
  return permitted("delete_module", ::syscall(SYS_delete_module, "no_such_module", O_NONBLOCK));
}
Outcome load_kernel(World&) {
  return permitted("kexec_load", ::syscall(SYS_kexec_load, 0, 0, nullptr, 0));
}
Outcome swap_to_file(World&) {
  return permitted("swapon", ::syscall(SYS_swapon, "/no/such/file", 0));
}
Outcome account(World&) { return permitted("acct", ::syscall(SYS_acct, "/no/such/file")); }
Outcome silence_kernel_log(World&) {
  constexpr int kConsoleOn = 7;
  return judge("syslog", ::syscall(SYS_syslog, kConsoleOn, nullptr, 0));
}
Outcome reach_ports(World&) { return judge("iopl", ::syscall(SYS_iopl, 3)); }
Outcome reach_port(World&) { return judge("ioperm", ::syscall(SYS_ioperm, 0x80, 1, 1)); }
Outcome set_quota(World&) {
  constexpr int kSyncAllUsers = 0x800001 << 8;
  return judge("quotactl", ::syscall(SYS_quotactl, kSyncAllUsers, nullptr, 0, nullptr));
}

constexpr Attempt kAttempts[] = {
    {"become-root", "root", kSeccomp | kIds, become_root},
    {"become-root-plainly", "root", kSeccomp | kIds, become_root_plainly},
    {"become-root-group", "files of root's group", kSeccomp | kIds, become_root_group},
    {"join-groups", "files of other groups", kSeccomp | kIds, join_groups},
    {"file-user", "root's files", kSeccomp | kIds, file_user},
    {"take-capability", "CAP_SYS_ADMIN", kSeccomp | kIds, take_capability},
    {"raise-ambient", "capabilities through the next exec", kSeccomp | kIds, raise_ambient},
    {"loosen-securebits", "capabilities by ids again", kSeccomp | kIds, loosen_securebits},
    {"keep-capabilities", "capabilities through a change of ids", kSeccomp | kIds,
     keep_capabilities},
    {"become-dumpable", "others with its id may trace it", kSeccomp, become_dumpable},
    {"outlive-parent", "no signal when its starter ends", kSeccomp, outlive_parent},
    {"more-descriptors", "a higher limit than it was given", kSeccomp | kLimits, more_descriptors},
    {"real-time", "a CPU for itself", kSeccomp | kIds, real_time},
    {"more-time", "more of the CPU than others", kSeccomp | kIds, more_time},
    {"real-time-io", "the disks before others", kSeccomp | kIds, real_time_io},
    {"listen-to-own-filter", "answers its own denied calls", kSeccomp, listen_to_own_filter},
    {"filter-by-prctl", "another filter", kSeccomp, filter_by_prctl},
    {"handle-denials", "another handler of denied calls", kSeccomp, handle_denials},
    {"set-clock", "the host's time", kSeccomp | kIds, set_clock},
    {"set-time-zone", "the host's time", kSeccomp | kIds, set_time_zone},
    {"reboot-host", "the host's end", kSeccomp | kIds, reboot_host},
    {"load-module", "code in the kernel", kSeccomp | kIds, load_module},
    {"load-module-file", "code in the kernel", kSeccomp | kIds, load_module_file},
    {"remove-module", "the kernel without a part", kSeccomp | kIds, remove_module},
    {"load-kernel", "another kernel", kSeccomp | kIds, load_kernel},
    {"swap-to-file", "others' memory in a file", kSeccomp | kIds, swap_to_file},
    {"account", "who runs what", kSeccomp | kIds, account},
    {"silence-kernel-log", "no trace on the console", kSeccomp | kIds, silence_kernel_log},
    {"reach-ports", "all devices", kSeccomp | kIds, reach_ports},
    {"reach-port", "a device", kSeccomp | kIds, reach_port},
    {"set-quota", "the kernel's quota code", kSeccomp, set_quota},
};

}  // namespace

std::span<const Attempt> privilege_attempts() { return kAttempts; }

}  // namespace mayfly::escape
