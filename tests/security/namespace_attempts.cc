// SPDX-License-Identifier: Apache-2.0
#include "tests/security/attempt.h"

#include <cerrno>
#include <csignal>
#include <cstdio>

#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::escape {
namespace {

// mount(2) and umount2(2): <sys/mount.h> and <linux/mount.h> exclude each other.
constexpr unsigned long kBindFlag = 4096;
constexpr unsigned long kRemountFlag = 32;
constexpr int kDetachFlag = 2;

Outcome leave(int kind) { return judge("unshare", ::syscall(SYS_unshare, kind)); }
Outcome new_user_namespace(World&) { return leave(CLONE_NEWUSER); }
Outcome new_mount_namespace(World&) { return leave(CLONE_NEWNS); }
Outcome new_network_namespace(World&) { return leave(CLONE_NEWNET); }
Outcome new_pid_namespace(World&) { return leave(CLONE_NEWPID); }

Outcome clone_user_namespace(World&) {
  const long child =
      ::syscall(SYS_clone, CLONE_NEWUSER | CLONE_NEWNET | SIGCHLD, nullptr, nullptr, nullptr, 0);
  if (child < 0) return judge("clone", -1);
  if (child == 0) {
    ::syscall(SYS_exit_group, 0);
    __builtin_trap();
  }
  return judge("wait4", ::syscall(SYS_wait4, child, nullptr, 0, nullptr));
}

Outcome join_daemon(World& world, int kind) {
  const long daemon = ::syscall(SYS_pidfd_open, world.targets.daemon, 0);
  if (daemon < 0) return judge("pidfd_open", -1);
  return judge("setns", ::syscall(SYS_setns, daemon, kind));
}
Outcome join_daemon_mounts(World& world) { return join_daemon(world, CLONE_NEWNS); }
Outcome join_daemon_network(World& world) { return join_daemon(world, CLONE_NEWNET); }

Outcome join_daemon_by_path(World& world) {
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/%d/ns/mnt", world.targets.daemon);
  const long space = ::syscall(SYS_openat, AT_FDCWD, path, O_RDONLY, 0);
  if (space < 0) return judge("openat", -1);
  return judge("setns", ::syscall(SYS_setns, space, CLONE_NEWNS));
}

Outcome mount_proc(World&) {
  return judge("mount", ::syscall(SYS_mount, "proc", "/", "proc", 0, nullptr));
}
Outcome mount_memory(World&) {
  return judge("mount", ::syscall(SYS_mount, "none", "/", "tmpfs", 0, nullptr));
}
Outcome bind_root(World&) {
  return judge("mount", ::syscall(SYS_mount, "/", "/", nullptr, kBindFlag, nullptr));
}
Outcome remount_writable(World&) {
  return judge("mount",
               ::syscall(SYS_mount, nullptr, "/", nullptr, kRemountFlag | kBindFlag, nullptr));
}
Outcome make_mount_writable(World&) {
  mount_attr change = {};
  change.attr_clr = MOUNT_ATTR_RDONLY;
  return judge("mount_setattr",
               ::syscall(SYS_mount_setattr, AT_FDCWD, "/", 0, &change, sizeof(change)));
}
Outcome unmount_root(World&) { return judge("umount2", ::syscall(SYS_umount2, "/", kDetachFlag)); }
Outcome exchange_root(World&) {
  // Needs a mount that is not the root: one over the root is.
  const long context = ::syscall(SYS_fsopen, "tmpfs", 0);
  if (context >= 0) {
    ::syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0);
    const long mount = ::syscall(SYS_fsmount, context, 0, 0);
    ::syscall(SYS_move_mount, mount, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH);
    ::syscall(SYS_fchdir, mount);
  }
  return judge("pivot_root", ::syscall(SYS_pivot_root, ".", "."));
}
Outcome change_root(World&) { return judge("chroot", ::syscall(SYS_chroot, ".")); }
Outcome copy_mounts(World&) {
  return judge("open_tree", ::syscall(SYS_open_tree, AT_FDCWD, "/", OPEN_TREE_CLONE));
}
Outcome open_file_system(World&) { return judge("fsopen", ::syscall(SYS_fsopen, "tmpfs", 0)); }
Outcome pick_file_system(World&) {
  return judge("fspick", ::syscall(SYS_fspick, AT_FDCWD, "/", 0));
}
Outcome move_mount(World& world) {
  const long tree = ::syscall(SYS_open_tree, AT_FDCWD, "/", OPEN_TREE_CLONE);
  if (tree < 0) return judge("open_tree", -1);
  return judge("move_mount", ::syscall(SYS_move_mount, tree, "", AT_FDCWD,
                                       world.targets.host_directory, MOVE_MOUNT_F_EMPTY_PATH));
}
Outcome rename_host(World&) { return judge("sethostname", ::syscall(SYS_sethostname, "x", 1)); }

constexpr Attempt kAttempts[] = {
    {"new-user-namespace", "all capabilities in it, and the kernel code behind them", kSeccomp,
     new_user_namespace},
    {"clone-user-namespace", "the same in a new process", kSeccomp, clone_user_namespace},
    {"new-mount-namespace", "mounts of its own", kSeccomp | kIds, new_mount_namespace},
    {"new-network-namespace", "a network to administer", kSeccomp | kIds, new_network_namespace},
    {"new-pid-namespace", "processes to be the first of", kSeccomp | kIds, new_pid_namespace},
    {"join-daemon-mounts", "the host's files", kSeccomp | kPids | kIds, join_daemon_mounts},
    {"join-daemon-network", "the host's network", kSeccomp | kPids | kIds, join_daemon_network},
    {"join-daemon-by-path", "the host's files", kSeccomp | kRoot | kPids | kIds,
     join_daemon_by_path},
    {"mount-proc", "processes and the kernel's settings", kSeccomp | kIds, mount_proc},
    {"mount-memory", "a file system to write to", kSeccomp | kIds, mount_memory},
    {"bind-root", "a mount with other flags", kSeccomp | kIds, bind_root},
    {"remount-writable", "a root that can be written", kSeccomp | kIds, remount_writable},
    {"make-mount-writable", "the same by the newer call", kSeccomp | kIds, make_mount_writable},
    {"unmount-root", "what lies under the root", kSeccomp | kIds, unmount_root},
    {"exchange-root", "another root", kSeccomp | kIds, exchange_root},
    {"change-root", "a root to walk out of", kSeccomp | kIds, change_root},
    {"copy-mounts", "the mounts it stands on", kSeccomp | kIds, copy_mounts},
    {"open-file-system", "any file system's code", kSeccomp | kIds, open_file_system},
    {"pick-file-system", "its root's settings", kSeccomp | kIds, pick_file_system},
    {"move-mount", "a mount elsewhere", kSeccomp | kIds, move_mount},
    {"rename-host", "what others think the host's name is", kSeccomp | kIds, rename_host},
};

}  // namespace

std::span<const Attempt> namespace_attempts() { return kAttempts; }

}  // namespace mayfly::escape
