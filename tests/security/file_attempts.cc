// SPDX-License-Identifier: Apache-2.0
#include "tests/security/attempt.h"
#include "tests/security/tiny_program.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

namespace mayfly::escape {
namespace {

constexpr int kMaxSteps = 64;

// Opening alone proves nothing: the secret has to be read.
Outcome open_and_read(const char* call, int directory, const char* path, int flags = O_RDONLY) {
  const long file = ::syscall(SYS_openat, directory, path, flags, 0);
  if (file < 0) return judge(call, -1);
  std::array<char, kSecret.size()> read = {};
  if (::syscall(SYS_pread64, file, read.data(), read.size(), 0) < 0) return judge("pread", -1);
  return read == kSecret ? escaped() : refused(call, 0);
}

Outcome open_host_file(World& world) {
  return open_and_read("openat", AT_FDCWD, world.targets.host_file);
}

Outcome write_host_file(World& world) {
  const long file = ::syscall(SYS_openat, AT_FDCWD, world.targets.host_file, O_WRONLY, 0);
  if (file < 0) return judge("openat", -1);
  return judge("write", ::syscall(SYS_write, file, kSecret.data(), kSecret.size()));
}

Outcome truncate_host_file(World& world) {
  return judge("truncate", ::syscall(SYS_truncate, world.targets.host_file, 4096));
}

// In the host's directory, or at least in whatever is the root.
Outcome create_file(World& world) {
  char path[128];
  std::snprintf(path, sizeof(path), "%s/created", world.targets.host_directory);
  for (const char* name : {static_cast<const char*>(path), "/created"}) {
    const long file = ::syscall(SYS_openat, AT_FDCWD, name, O_CREAT | O_WRONLY, 0600);
    if (file < 0) continue;
    ::syscall(SYS_unlink, name);
    return escaped();
  }
  return judge("openat", -1);
}

Outcome make_directory(World& world) {
  char path[128];
  std::snprintf(path, sizeof(path), "%s/made", world.targets.host_directory);
  for (const char* name : {static_cast<const char*>(path), "/made"}) {
    if (::syscall(SYS_mkdir, name, 0700) < 0) continue;
    ::syscall(SYS_rmdir, name);
    return escaped();
  }
  return judge("mkdir", -1);
}

Outcome make_symlink(World& world) {
  char path[128];
  std::snprintf(path, sizeof(path), "%s/link", world.targets.host_directory);
  for (const char* name : {static_cast<const char*>(path), "/link"}) {
    if (::syscall(SYS_symlink, "/etc/passwd", name) < 0) continue;
    ::syscall(SYS_unlink, name);
    return escaped();
  }
  return judge("symlink", -1);
}

Outcome open_by_own_root(World& world) {
  char path[160];
  std::snprintf(path, sizeof(path), "/proc/self/root%s", world.targets.host_file);
  return open_and_read("openat", AT_FDCWD, path);
}

Outcome open_by_daemon_root(World& world) {
  char path[160];
  std::snprintf(path, sizeof(path), "/proc/%d/root%s", world.targets.daemon,
                world.targets.host_file);
  return open_and_read("openat", AT_FDCWD, path);
}

Outcome open_daemon_memory(World& world) {
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/%d/mem", world.targets.daemon);
  const long file = ::syscall(SYS_openat, AT_FDCWD, path, O_RDWR, 0);
  if (file < 0) return judge("openat", -1);
  std::array<char, kSecret.size()> read = {};
  const long size =
      ::syscall(SYS_pread64, file, read.data(), read.size(), world.targets.daemon_secret);
  return size < 0 ? judge("pread", -1) : read == kSecret ? escaped() : refused("pread", 0);
}

// From the current directory to the host's root.
Outcome walk_up(World& world) {
  for (int step = 0; step < kMaxSteps; ++step) {
    if (::syscall(SYS_chdir, "..") < 0) return judge("chdir", -1);
  }
  return open_and_read("openat", AT_FDCWD, world.targets.host_file + 1);
}

// From any descriptor that turns out to be a directory.
Outcome walk_up_from_descriptors(World& world) {
  char path[3 * kMaxSteps + sizeof(world.targets.host_file)] = {};
  for (int step = 0; step < kMaxSteps; ++step) std::strcat(path, "../");
  std::strcat(path, world.targets.host_file + 1);
  for (int directory = 0; directory < kMaxSteps; ++directory) {
    const Outcome outcome = open_and_read("openat", directory, path);
    if (outcome.end == End::kEscaped) return outcome;
  }
  return refused("openat", ENOTDIR);
}

// What the monitor holds read-only, once more and for writing.
Outcome reopen_for_writing(World&) {
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/self/fd/%d", kKernel);
  return judge("openat", ::syscall(SYS_openat, AT_FDCWD, path, O_RDWR, 0));
}

struct Handle {
  file_handle header;
  unsigned char bytes[MAX_HANDLE_SZ];
};

// A handle needs no path: with one that is guessed, any file of the disk's file system opens.
Outcome open_by_handle(World&) {
  Handle handle = {};
  handle.header.handle_bytes = MAX_HANDLE_SZ;
  int mount = 0;
  if (::syscall(SYS_name_to_handle_at, kDisk, "", &handle.header, &mount, AT_EMPTY_PATH) < 0) {
    return judge("name_to_handle_at", -1);
  }
  return judge("open_by_handle_at",
               ::syscall(SYS_open_by_handle_at, kDisk, &handle.header, O_RDWR));
}

Outcome make_handle(World&) {
  Handle handle = {};
  handle.header.handle_bytes = MAX_HANDLE_SZ;
  int mount = 0;
  return judge("name_to_handle_at",
               ::syscall(SYS_name_to_handle_at, kDisk, "", &handle.header, &mount, AT_EMPTY_PATH));
}

Outcome make_device_node(World& world) {
  char path[128];
  std::snprintf(path, sizeof(path), "%s/memory", world.targets.host_directory);
  for (const char* name : {static_cast<const char*>(path), "/memory"}) {
    if (::syscall(SYS_mknod, name, S_IFCHR | 0600, makedev(1, 1)) < 0) continue;
    ::syscall(SYS_unlink, name);
    return escaped();
  }
  return judge("mknod", -1);
}

Outcome open_device(World&) {
  return judge("openat", ::syscall(SYS_openat, AT_FDCWD, "/dev/null", O_RDWR, 0));
}

Outcome stat_host_file(World& world) {
  struct stat file = {};
  // The flag is the one that the start's filter asks for; the path is behind a pointer.
  return judge("newfstatat",
               ::syscall(SYS_newfstatat, AT_FDCWD, world.targets.host_file, &file, AT_EMPTY_PATH));
}

Outcome watch_host_file(World& world) {
  const long watcher = ::syscall(SYS_inotify_init1, IN_CLOEXEC);
  if (watcher < 0) return judge("inotify_init1", -1);
  return judge("inotify_add_watch",
               ::syscall(SYS_inotify_add_watch, watcher, world.targets.host_file, IN_ALL_EVENTS));
}

Outcome list_directory(World& world) {
  const long directory =
      ::syscall(SYS_openat, AT_FDCWD, world.targets.host_directory, O_RDONLY | O_DIRECTORY, 0);
  if (directory < 0) return judge("openat", -1);
  char entries[1024];
  return judge("getdents64", ::syscall(SYS_getdents64, directory, entries, sizeof(entries)));
}

Outcome unlink_host_file(World& world) {
  char path[128];
  std::snprintf(path, sizeof(path), "%s/victim", world.targets.host_directory);
  return judge("unlinkat", ::syscall(SYS_unlinkat, AT_FDCWD, path, 0));
}

Outcome rename_host_file(World& world) {
  char from[128];
  char to[128];
  std::snprintf(from, sizeof(from), "%s/victim", world.targets.host_directory);
  std::snprintf(to, sizeof(to), "%s/renamed", world.targets.host_directory);
  return judge("renameat2", ::syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

Outcome execute(const char* call, int directory, const char* path, int flags) {
  const char* arguments[] = {"sh", "-c", "exit 0", nullptr};
  const char* environment[] = {nullptr};
  // A success does not return: the new program ends with 0, which says so.
  return judge(call, ::syscall(SYS_execveat, directory, path, arguments, environment, flags));
}

Outcome execute_shell(World&) { return execute("execveat", AT_FDCWD, "/bin/sh", 0); }

Outcome execute_shell_plainly(World&) {
  const char* arguments[] = {"sh", "-c", "exit 0", nullptr};
  const char* environment[] = {nullptr};
  return judge("execve", ::syscall(SYS_execve, "/bin/sh", arguments, environment));
}

Outcome execute_itself(World&) {
  const char* arguments[] = {"escapee", "--succeed", nullptr};
  const char* environment[] = {nullptr};
  return judge("execve", ::syscall(SYS_execve, "/proc/self/exe", arguments, environment));
}

Outcome execute_memory(World&) {
  const TinyProgram program;
  const long file = ::syscall(SYS_memfd_create, "program", MFD_CLOEXEC);
  if (file < 0) return judge("memfd_create", -1);
  if (::syscall(SYS_write, file, &program, sizeof(program)) < 0) return judge("write", -1);
  return execute("execveat", static_cast<int>(file), "", AT_EMPTY_PATH);
}

Outcome execute_disk(World&) { return execute("execveat", kReadOnlyDisk, "", AT_EMPTY_PATH); }

constexpr Attempt kAttempts[] = {
    {"open-host-file", "reads a file of the host by its path", kSeccomp | kRoot, open_host_file},
    {"write-host-file", "changes a file of the host", kSeccomp | kRoot, write_host_file},
    {"truncate-host-file", "destroys a file of the host", kSeccomp | kRoot, truncate_host_file},
    {"create-file", "leaves a file", kSeccomp | kRoot, create_file},
    {"make-directory", "leaves a directory", kSeccomp | kRoot, make_directory},
    {"make-symlink", "leads a privileged program astray", kSeccomp | kRoot, make_symlink},
    {"unlink-host-file", "removes a file of the host", kSeccomp | kRoot, unlink_host_file},
    {"rename-host-file", "exchanges a file of the host", kSeccomp | kRoot, rename_host_file},
    {"list-directory", "learns what the host has", kSeccomp | kRoot, list_directory},
    {"stat-host-file", "learns that a file exists", kSeccomp | kBeforeRun | kRoot, stat_host_file},
    {"watch-host-file", "learns who uses a file", kSeccomp | kRoot, watch_host_file},
    {"open-by-own-root", "the same by /proc/self/root", kSeccomp | kRoot, open_by_own_root},
    {"open-by-daemon-root", "the same by the daemon's root", kSeccomp | kRoot | kPids,
     open_by_daemon_root},
    {"open-daemon-memory", "reads and writes the daemon's memory", kSeccomp | kRoot | kPids | kIds,
     open_daemon_memory},
    {"walk-up", "the host's root by ..", kSeccomp | kRoot, walk_up},
    {"walk-up-from-descriptors", "the host's root from a descriptor",
     kSeccomp | kRoot | kDescriptor, walk_up_from_descriptors},
    {"reopen-for-writing", "more rights to a file than were given", kSeccomp | kRoot,
     reopen_for_writing},
    {"open-by-handle", "any file of a disk's file system, without a path", kSeccomp | kIds,
     open_by_handle},
    {"make-handle", "the handle of a file, from which others are guessed", kSeccomp, make_handle},
    {"make-device-node", "a way to the host's memory", kSeccomp | kRoot | kIds, make_device_node},
    {"open-device", "any device that everyone may use", kSeccomp | kRoot, open_device},
    {"execute-shell", "a program of the host", kSeccomp | kRoot, execute_shell},
    {"execute-shell-plainly", "the same by the older call", kSeccomp | kRoot,
     execute_shell_plainly},
    {"execute-itself", "a second life without what was mapped", kSeccomp | kRoot, execute_itself},
    {"execute-memory", "a program of its own, from memory", kSeccomp, execute_memory},
    {"execute-disk", "a program that lies on a disk", kSeccomp | kLandlock, execute_disk},
};

}  // namespace

std::span<const Attempt> file_attempts() { return kAttempts; }

}  // namespace mayfly::escape
