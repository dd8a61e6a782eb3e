// SPDX-License-Identifier: Apache-2.0
#include "daemon/host_probe_sys.h"

#include "base/fd.h"

#include <cerrno>

#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::daemon {

int try_io_uring() {
  io_uring_params params = {};
  // SAFETY: the kernel reads and fills params, which lives through the call; the ring closes with
  // `ring`.
  const Fd ring(static_cast<int>(::syscall(SYS_io_uring_setup, 2, &params)));
  return ring.valid() ? 0 : errno;
}

int try_userfaultfd() {
  // SAFETY: takes flags only.
  const Fd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY)));
  return fd.valid() ? 0 : errno;
}

}  // namespace mayfly::daemon
