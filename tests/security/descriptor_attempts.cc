// SPDX-License-Identifier: Apache-2.0
//
// What can be done to the descriptors that a monitor rightly has.
#include "tests/security/attempt.h"

#include <array>
#include <csignal>
#include <cstdint>
#include <ctime>

#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

namespace mayfly::escape {
namespace {

Outcome write_kernel(World&) { return judge("write", ::syscall(SYS_write, kKernel, "x", 1)); }
Outcome map_kernel_for_writing(World&) {
  const long page =
      ::syscall(SYS_mmap, nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, kKernel, 0);
  return page == -1 ? judge("mmap", -1) : escaped();
}
Outcome write_kernel_at(World&) {
  static constexpr iovec kByte = {const_cast<char*>("x"), 1};
  return judge("pwritev", ::syscall(SYS_pwritev, kKernel, &kByte, 1, 0, 0));
}

Outcome shrink_disk(World&) { return judge("ftruncate", ::syscall(SYS_ftruncate, kDisk, 4096)); }
Outcome shrink_console(World&) {
  return judge("ftruncate", ::syscall(SYS_ftruncate, kConsoleRing, 0));
}
Outcome shrink_memory(World&) {
  return judge("ftruncate", ::syscall(SYS_ftruncate, kMemory, 4096));
}
// Its position may be anywhere in it, so one more block than the whole of it.
Outcome grow_disk(World&) {
  static constexpr std::array<char, 64 * 1024> kBlock = {};
  for (uint64_t written = 0; written < kDiskBytes; written += kBlock.size()) {
    const long size = ::syscall(SYS_write, kDisk, kBlock.data(), kBlock.size());
    if (size < 0) return judge("write", size);
  }
  return judge("write", ::syscall(SYS_write, kDisk, kBlock.data(), kBlock.size()));
}
Outcome punch_disk(World&) {
  return judge("fallocate", ::syscall(SYS_fallocate, kDisk,
                                      FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096));
}
Outcome reserve_disk(World&) {
  return judge("fallocate",
               ::syscall(SYS_fallocate, kDisk, FALLOC_FL_KEEP_SIZE, 0, size_t{2} << 20));
}
Outcome open_disk_to_everyone(World&) {
  return judge("fchmod", ::syscall(SYS_fchmod, kDisk, 0666));
}
Outcome give_disk_away(World&) {
  return judge("fchown", ::syscall(SYS_fchown, kDisk, ::getuid(), -1));
}
Outcome date_disk(World&) {
  const timespec times[2] = {{1, 0}, {1, 0}};
  return judge("utimensat", ::syscall(SYS_utimensat, kDisk, nullptr, times, 0));
}
Outcome label_disk(World&) {
  return judge("fsetxattr", ::syscall(SYS_fsetxattr, kDisk, "user.mayfly", "x", 1, 0));
}
Outcome lock_disk(World&) { return judge("flock", ::syscall(SYS_flock, kDisk, LOCK_EX | LOCK_NB)); }
Outcome lock_disk_range(World&) {
  struct flock lock = {};
  lock.l_type = F_WRLCK;
  return judge("fcntl F_OFD_SETLK", ::syscall(SYS_fcntl, kDisk, F_OFD_SETLK, &lock));
}
Outcome lease_disk(World&) {
  return judge("fcntl F_SETLEASE", ::syscall(SYS_fcntl, kDisk, F_SETLEASE, F_WRLCK));
}
Outcome append_to_disk(World&) {
  return judge("fcntl F_SETFL", ::syscall(SYS_fcntl, kDisk, F_SETFL, O_APPEND));
}
Outcome signal_on_input(World&) {
  return judge("fcntl F_SETSIG", ::syscall(SYS_fcntl, kConsoleInput, F_SETSIG, SIGURG));
}
Outcome grow_pipe(World&) {
  return judge("fcntl F_SETPIPE_SZ", ::syscall(SYS_fcntl, kConsoleInput, F_SETPIPE_SZ, 1 << 19));
}
Outcome seal_memory(World&) {
  return judge("fcntl F_ADD_SEALS",
               ::syscall(SYS_fcntl, kMemory, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SEAL));
}
Outcome duplicate_descriptor(World&) {
  return judge("fcntl F_DUPFD", ::syscall(SYS_fcntl, kDisk, F_DUPFD, 100));
}
Outcome copy_disk(World&) {
  return judge("copy_file_range",
               ::syscall(SYS_copy_file_range, kReadOnlyDisk, nullptr, kDisk, nullptr, 16, 0));
}
Outcome send_disk(World&) {
  return judge("sendfile", ::syscall(SYS_sendfile, kAgentStream, kReadOnlyDisk, nullptr, 16));
}
Outcome splice_disk(World&) {
  int ends[2] = {};
  if (::syscall(SYS_pipe2, ends, 0) < 0) return judge("pipe2", -1);
  return judge("splice", ::syscall(SYS_splice, kReadOnlyDisk, nullptr, ends[1], nullptr, 16, 0));
}
Outcome ask_disk(World&) {
  const int off = 0;
  return judge("ioctl FIONBIO", ::syscall(SYS_ioctl, kDisk, FIONBIO, &off));
}
Outcome ask_input(World&) {
  int waiting = 0;
  return judge("ioctl FIONREAD", ::syscall(SYS_ioctl, kConsoleInput, FIONREAD, &waiting));
}
Outcome asynchronous_input(World&) {
  const int on = 1;
  return judge("ioctl FIOASYNC", ::syscall(SYS_ioctl, kConsoleInput, FIOASYNC, &on));
}
Outcome peer_of_control(World&) {
  ucred peer = {};
  socklen_t size = sizeof(peer);
  return judge("getsockopt",
               ::syscall(SYS_getsockopt, kControl, SOL_SOCKET, SO_PEERCRED, &peer, &size));
}
Outcome pose_as_other(World&) {
  const int on = 1;
  return judge("setsockopt",
               ::syscall(SYS_setsockopt, kControl, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)));
}
Outcome watch_descriptors(World&) {
  return judge("epoll_create1", ::syscall(SYS_epoll_create1, 0));
}
Outcome make_timer(World&) {
  return judge("timerfd_create", ::syscall(SYS_timerfd_create, CLOCK_MONOTONIC, 0));
}
Outcome close_all(World&) { return judge("close_range", ::syscall(SYS_close_range, 100, 200, 0)); }
Outcome flush_host(World&) { return judge("syncfs", ::syscall(SYS_syncfs, kDisk)); }

constexpr Attempt kAttempts[] = {
    {"write-kernel", "another kernel for the next VM", kDescriptor, write_kernel},
    {"write-kernel-at", "the same at an offset", kDescriptor, write_kernel_at},
    {"map-kernel-for-writing", "the same by memory", kSeccomp | kBeforeRun | kDescriptor,
     map_kernel_for_writing},
    {"shrink-disk", "a fault in who has mapped it", kSeccomp, shrink_disk},
    {"grow-disk", "all the room of the file system", kLimits, grow_disk},
    {"shrink-console", "a fault in the daemon, had it mapped the ring", kSeccomp, shrink_console},
    {"shrink-memory", "a fault in who has mapped it", kSeccomp, shrink_memory},
    {"punch-disk", "lost data past the device's own rules", kSeccomp, punch_disk},
    {"reserve-disk", "the host's space", kSeccomp, reserve_disk},
    {"open-disk-to-everyone", "others' access to the disk", kSeccomp | kOwnId,
     open_disk_to_everyone},
    {"give-disk-away", "an owner's rights to the disk", kSeccomp | kOwnId, give_disk_away},
    {"date-disk", "a disk that looks old", kSeccomp | kOwnId, date_disk},
    {"label-disk", "an attribute that others trust", kSeccomp | kOwnId, label_disk},
    {"lock-disk", "others wait", kSeccomp, lock_disk},
    {"lock-disk-range", "others wait", kSeccomp, lock_disk_range},
    {"lease-disk", "others' open() waits", kSeccomp | kOwnId, lease_disk},
    {"append-to-disk", "flags of a description that it shares", kSeccomp, append_to_disk},
    {"signal-on-input", "signals of its choice", kSeccomp, signal_on_input},
    {"grow-pipe", "kernel memory", kSeccomp, grow_pipe},
    {"seal-memory", "memory that cannot be changed any more", kSeccomp, seal_memory},
    {"duplicate-descriptor", "descriptors of its choice", kSeccomp, duplicate_descriptor},
    {"copy-disk", "the kernel's copying code", kSeccomp, copy_disk},
    {"send-disk", "the kernel's copying code", kSeccomp, send_disk},
    {"splice-disk", "the kernel's copying code", kSeccomp, splice_disk},
    {"ask-disk", "a request that is no block device's", kSeccomp, ask_disk},
    {"ask-input", "a request that no code of ours makes", kSeccomp, ask_input},
    {"asynchronous-input", "the same, which changes something", kSeccomp, asynchronous_input},
    {"peer-of-control", "who the daemon is", kSeccomp, peer_of_control},
    {"pose-as-other", "an option of the daemon's connection", kSeccomp, pose_as_other},
    {"watch-descriptors", "the kernel's polling code", kSeccomp, watch_descriptors},
    {"make-timer", "a timer", kSeccomp, make_timer},
    {"close-all", "descriptors gone at once", kSeccomp, close_all},
    {"flush-host", "the host waits for its disk", kSeccomp, flush_host},
};

}  // namespace

std::span<const Attempt> descriptor_attempts() { return kAttempts; }

}  // namespace mayfly::escape
