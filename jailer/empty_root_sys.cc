// SPDX-License-Identifier: Apache-2.0
#include "jailer/empty_root_sys.h"

#include "base/fd.h"

#include <cerrno>

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::jailer {
namespace {

// SAFETY: of this file: system calls that glibc has no wrapper for, with descriptors, numbers and
// string literals only.

std::unexpected<Error> step_failed(const char* step) {
  return fail_errno({Code::kFailedPrecondition, "EMPTY_ROOT"}, errno, "%s", step);
}

Result<> set_option(FdRef context, const char* key, const char* value) {
  if (::syscall(SYS_fsconfig, context.number(), FSCONFIG_SET_STRING, key, value, 0) == 0) return {};
  return step_failed("configure an empty file system");
}

/// A mount that is nowhere yet.
Result<Fd> make_empty_mount() {
  const Fd context(static_cast<int>(::syscall(SYS_fsopen, "tmpfs", FSOPEN_CLOEXEC)));
  if (!context.valid()) return step_failed("open an empty file system");
  // Read-only is a promise of every layer: the mount's flag, and no room for an inode but the root.
  TRY(set_option(context.ref(), "mode", "0555"));
  TRY(set_option(context.ref(), "nr_inodes", "1"));
  TRY(set_option(context.ref(), "size", "4096"));
  if (::syscall(SYS_fsconfig, context.number(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0) {
    return step_failed("create an empty file system");
  }
  Fd mount(static_cast<int>(
      ::syscall(SYS_fsmount, context.number(), FSMOUNT_CLOEXEC,
                MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)));
  if (!mount.valid()) return step_failed("mount an empty file system");
  return mount;
}

}  // namespace

Result<> make_root_empty() {
  // First of all: what is done here must not reach other namespaces.
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return step_failed("make the mounts private");
  }
  const Fd root = TRY(make_empty_mount());
  // Over "/", which exists everywhere. Nothing sees it there: the descriptor leads to it.
  if (::syscall(SYS_move_mount, root.number(), "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) != 0) {
    return step_failed("attach an empty file system");
  }
  if (::fchdir(root.number()) != 0) return step_failed("enter the empty root");
  // pivot_root(2), "pivot_root(".", ".")": the old root comes to lie on top, and goes at once.
  if (::syscall(SYS_pivot_root, ".", ".") != 0) {
    return step_failed("exchange the root (impossible on an initramfs and in a chroot)");
  }
  if (::umount2(".", MNT_DETACH) != 0) return step_failed("detach the old root");
  if (::chdir("/") != 0) return step_failed("enter the empty root");
  return {};
}

}  // namespace mayfly::jailer
