// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/lazy_memory_sys.h"

#include "base/log.h"

#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace mayfly {
namespace {

Result<Fd> new_userfault(FdRef device) {
  // SAFETY: the request takes flags and no pointer.
  Fd userfault(::ioctl(device.number(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
  if (userfault.valid()) return userfault;
  return fail_errno({Code::kFailedPrecondition, "USERFAULT"}, errno,
                    "map_memory.userfault_device_fd: no userfaultfd could be made of it");
}

Result<> send_over(FdRef socket, FdRef descriptor) {
  char byte = 0;
  iovec bytes{&byte, sizeof(byte)};
  alignas(cmsghdr) char ancillary[CMSG_SPACE(sizeof(int))] = {};
  msghdr header = {};
  header.msg_iov = &bytes;
  header.msg_iovlen = 1;
  header.msg_control = ancillary;
  header.msg_controllen = sizeof(ancillary);
  cmsghdr* part = CMSG_FIRSTHDR(&header);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof(int));
  const int number = descriptor.number();
  // SAFETY: the control space is aligned for a cmsghdr and has room for one descriptor.
  std::memcpy(CMSG_DATA(part), &number, sizeof(number));
  if (::sendmsg(socket.number(), &header, MSG_NOSIGNAL) == sizeof(byte)) return {};
  return fail_errno({Code::kInvalidArgument, "GUARD_SOCKET"}, errno,
                    "map_memory.guard_fd: the userfaultfd could not be sent over it");
}

// Until nothing is missing any more; otherwise the process does not outlive it.
void guard(const Fd& socket, const Fd&, vmm::Confinement confinement) {
  ::prctl(PR_SET_NAME, "guard");
  if (const Result<> confined = confinement.enter(vmm::ThreadKind::kGuard); !confined) {
    log(LogLevel::kError, "guard: %s", confined.error().describe().c_str());
    ::_exit(1);
  }
  char word = 0;
  ssize_t size = 0;
  do {
    // SAFETY: room for the one byte that is asked for.
    size = ::read(socket.number(), &word, sizeof(word));
  } while (size < 0 && errno == EINTR);
  if (size == sizeof(word)) return;
  log(LogLevel::kError, "guard: whoever provides this VM's memory has gone");
  ::_exit(1);
}

}  // namespace

Result<MissingMemory> MissingMemory::create(MissingMemoryConfig config,
                                            vmm::Confinement confinement) {
  GuestMemory ram = TRY(GuestMemory::create(config.file.ref(), config.size_bytes));
  Fd userfault = TRY(new_userfault(config.userfault_device.ref()));
  TRY(send_over(config.guard.ref(), userfault.ref()));
  std::thread([socket = std::move(config.guard), kept = std::move(userfault), confinement] {
    guard(socket, kept, confinement);
  }).detach();
  return MissingMemory{.file = std::move(config.file), .ram = std::move(ram)};
}

}  // namespace mayfly
