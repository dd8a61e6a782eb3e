// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/root.h"

#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "guest/agent/guest_sys.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include <dirent.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

namespace mayfly::guest {
namespace {

constexpr uint64_t kDeviceTimeoutNs = 10'000'000'000;
constexpr const char* kDefaultTypes[] = {"ext4", "squashfs", "erofs"};
constexpr const char* kMovedMounts[] = {"/dev", "/proc", "/sys"};
// A hostile or broken initramfs must not overflow the stack of the one who empties it.
constexpr int kMaxDepth = 32;

struct Mount {
  const char* type;
  const char* target;
  unsigned long flags;
  const char* data;
};

constexpr unsigned long kPlain = MS_NOSUID | MS_NOEXEC | MS_NODEV;

Result<> mount_one(const Mount& what) {
  ::mkdir(what.target, 0755);
  if (::mount(what.type, what.target, what.type, what.flags, what.data) != 0 && errno != EBUSY) {
    return fail_errno({Code::kUnavailable, "MOUNT"}, errno, "mount %s on %s", what.type,
                      what.target);
  }
  return {};
}

void try_mount(const Mount& what) {
  if (const Result<> mounted = mount_one(what); !mounted) {
    log(LogLevel::kInfo, "%s", mounted.error().message().c_str());
  }
}

bool exists(const char* path) { return ::access(path, F_OK) == 0; }

// Waits until devtmpfs has `path`. The watch is set before the first look, so no creation is
// missed.
Result<> wait_for_device(const std::string& path) {
  Fd watch(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (watch.valid()) ::inotify_add_watch(watch.number(), "/dev", IN_CREATE | IN_MOVED_TO);
  const uint64_t deadline = monotonic_ns() + kDeviceTimeoutNs;
  while (!exists(path.c_str())) {
    const uint64_t now = monotonic_ns();
    if (now >= deadline) {
      return fail({Code::kNotFound, "ROOT_DEVICE"}, "root=%s: no such device after %llu s",
                  path.c_str(), static_cast<unsigned long long>(kDeviceTimeoutNs / 1'000'000'000));
    }
    pollfd entry{watch.number(), POLLIN, 0};
    ::poll(&entry, 1, static_cast<int>((deadline - now) / 1'000'000 + 1));
    char events[4096];
    while (watch.valid() && ::read(watch.number(), events, sizeof(events)) > 0) {
    }
  }
  return {};
}

int mount_root_as(const char* type, const BootOptions& options) {
  unsigned long flags = options.root_writable ? 0 : MS_RDONLY;
  const char* data = options.root_flags.empty() ? nullptr : options.root_flags.c_str();
  if (::mount(options.root.c_str(), kRootMountPoint, type, flags, data) == 0) return 0;
  if (flags != 0 || (errno != EACCES && errno != EROFS)) return errno;
  // The disk cannot be written to, whatever the command line hopes for.
  log(LogLevel::kWarning, "root=%s is read-only", options.root.c_str());
  return ::mount(options.root.c_str(), kRootMountPoint, type, MS_RDONLY, data) == 0 ? 0 : errno;
}

Result<> mount_root(const BootOptions& options) {
  std::vector<std::string> types = options.root_types;
  if (types.empty()) types.assign(std::begin(kDefaultTypes), std::end(kDefaultTypes));
  std::string tried;
  int error = ENODEV;
  for (const std::string& type : types) {
    const int result = mount_root_as(type.c_str(), options);
    if (result == 0) return {};
    // "This kernel has no such type" says less than any other reason.
    if (result != ENODEV) error = result;
    tried += (tried.empty() ? "" : ", ") + type + ": " + std::strerror(result);
  }
  return fail({error == EINVAL ? Code::kInvalidArgument : Code::kUnavailable, "ROOT_MOUNT"},
              "root=%s cannot be mounted (%s)", options.root.c_str(), tried.c_str());
}

// Removes what lies under `directory` on the file system `device`; mounts on it are left alone.
void empty_directory(Fd directory, dev_t device, int depth) {
  DIR* entries = ::fdopendir(directory.release());
  if (entries == nullptr) return;
  while (const dirent* entry = ::readdir(entries)) {
    const std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    struct stat info;
    const int parent = ::dirfd(entries);
    if (::fstatat(parent, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) != 0) continue;
    if (info.st_dev != device) continue;
    const bool nested = S_ISDIR(info.st_mode);
    if (nested && depth < kMaxDepth) {
      Fd child(::openat(parent, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      if (child.valid()) empty_directory(std::move(child), device, depth + 1);
    }
    ::unlinkat(parent, entry->d_name, nested ? AT_REMOVEDIR : 0);
  }
  ::closedir(entries);
}

// Frees the initramfs's memory. Only where "/" really is one: never the files of a disk.
void empty_initramfs() {
  struct statfs kind;
  struct stat info;
  if (::statfs("/", &kind) != 0 || ::stat("/", &info) != 0) return;
  if (kind.f_type != RAMFS_MAGIC && kind.f_type != TMPFS_MAGIC) return;
  Fd root(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (root.valid()) empty_directory(std::move(root), info.st_dev, 0);
}

void move_mounts() {
  for (const char* from : kMovedMounts) {
    const std::string to = std::string(kRootMountPoint) + from;
    ::mkdir(to.c_str(), 0755);
    if (::mount(from, to.c_str(), nullptr, MS_MOVE, nullptr) == 0) continue;
    log(LogLevel::kWarning, "the root has no usable %s: %s", from, std::strerror(errno));
    ::umount2(from, MNT_DETACH);
  }
}

bool has_mount_points() {
  return std::ranges::all_of(kMovedMounts, [](const char* each) {
    return exists((std::string(kRootMountPoint) + each).c_str());
  });
}

// A read-only root without /dev, /proc or /sys gets them from an overlay, where the kernel has one.
void overlay_missing_mount_points() {
  if (has_mount_points() || ::access(kRootMountPoint, W_OK) == 0) return;
  ::mkdir("/.mayfly/over", 0755);
  try_mount({"tmpfs", "/.mayfly/over", MS_NOSUID | MS_NODEV, "mode=0755,size=1m"});
  ::mkdir("/.mayfly/over/up", 0755);
  ::mkdir("/.mayfly/over/work", 0755);
  try_mount({"overlay", kRootMountPoint, 0,
             "lowerdir=/.mayfly/root,upperdir=/.mayfly/over/up,workdir=/.mayfly/over/work"});
}

std::string read_small_file(const char* path, size_t limit) {
  std::string text(limit + 1, '\0');
  Fd file(::open(path, O_RDONLY | O_CLOEXEC));
  size_t size = 0;
  while (file.valid() && size < text.size()) {
    const ssize_t count = ::read(file.number(), text.data() + size, text.size() - size);
    if (count <= 0) break;
    size += static_cast<size_t>(count);
  }
  text.resize(size);
  return text;
}

}  // namespace

void secure_standard_streams() {
  for (;;) {
    const int fd = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    if (fd > 2) {
      ::close(fd);
      return;
    }
    ::fcntl(fd, F_SETFD, 0);
  }
}

Result<> mount_kernel_file_systems() {
  TRY(mount_one({"devtmpfs", "/dev", MS_NOSUID, "mode=0755"}));
  TRY(mount_one({"proc", "/proc", kPlain, nullptr}));
  TRY(mount_one({"sysfs", "/sys", kPlain, nullptr}));
  try_mount({"devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"});
  try_mount({"tmpfs", "/dev/shm", MS_NOSUID | MS_NODEV, "mode=1777"});
  if (exists("/sys/fs/cgroup")) try_mount({"cgroup2", "/sys/fs/cgroup", kPlain, nullptr});
  // What a shell's <(...) and many programs expect, and devtmpfs does not make.
  (void)!::symlink("/proc/self/fd", "/dev/fd");
  (void)!::symlink("/proc/self/fd/0", "/dev/stdin");
  (void)!::symlink("/proc/self/fd/1", "/dev/stdout");
  (void)!::symlink("/proc/self/fd/2", "/dev/stderr");
  return {};
}

void load_modules() {
  std::vector<std::string> names;
  DIR* entries = ::opendir(kModulesDirectory);
  if (entries == nullptr) return;
  while (const dirent* entry = ::readdir(entries)) {
    const std::string_view name = entry->d_name;
    if (name.ends_with(".ko")) names.emplace_back(name);
  }
  ::closedir(entries);
  std::ranges::sort(names);
  for (const std::string& name : names) {
    const std::string path = std::string(kModulesDirectory) + "/" + name;
    const Result<Fd> file = Fd::open(path.c_str(), O_RDONLY);
    const Result<> loaded =
        file ? load_module(file->ref(), name.c_str()) : Result<>(std::unexpected(file.error()));
    if (!loaded) log(LogLevel::kWarning, "%s", loaded.error().message().c_str());
  }
}

Result<> switch_root(const BootOptions& options) {
  ::mkdir(kRootMountPoint, 0755);
  TRY(wait_for_device(options.root));
  TRY(mount_root(options));
  overlay_missing_mount_points();
  move_mounts();
  if (::chdir(kRootMountPoint) != 0) {
    return fail_errno({Code::kInternal, "SWITCH_ROOT"}, errno, "enter the root");
  }
  empty_initramfs();
  if (::mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 || ::chroot(".") != 0 ||
      ::chdir("/") != 0) {
    return fail_errno({Code::kInternal, "SWITCH_ROOT"}, errno, "make the root /");
  }
  return {};
}

void mount_scratch(const BootOptions& options) {
  if (exists("/run")) try_mount({"tmpfs", "/run", MS_NOSUID | MS_NODEV, "mode=0755"});
  if (options.init.empty() && exists("/tmp")) {
    try_mount({"tmpfs", "/tmp", MS_NOSUID | MS_NODEV, "mode=1777"});
  }
}

void quiesce_file_systems() {
  ::sync();
  // In reverse order of mounting; what is still in use stays and is made read-only by the kernel's
  // own sync.
  std::string table = read_small_file("/proc/mounts", 64 * 1024);
  std::vector<std::string> targets;
  size_t at = 0;
  while (at < table.size()) {
    const size_t end = std::min(table.find('\n', at), table.size());
    const std::string line = table.substr(at, end - at);
    const size_t first = line.find(' ');
    const size_t second = first == line.npos ? line.npos : line.find(' ', first + 1);
    if (second != line.npos) targets.push_back(line.substr(first + 1, second - first - 1));
    at = end + 1;
  }
  for (auto target = targets.rbegin(); target != targets.rend(); ++target) {
    if (*target != "/" && ::umount2(target->c_str(), 0) != 0) {
      ::mount(nullptr, target->c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr);
    }
  }
  ::mount(nullptr, "/", nullptr, MS_REMOUNT | MS_RDONLY, nullptr);
  ::sync();
}

Result<BootOptions> read_boot_options() {
  return parse_cmdline(read_small_file("/proc/cmdline", kMaxCmdlineBytes));
}

}  // namespace mayfly::guest
