// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/lazy_memory_sys.h"

#include "base/log.h"
#include "base/send_descriptor_sys.h"

#include <cerrno>
#include <thread>
#include <utility>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
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
  const std::byte byte{0};
  if (send_with_descriptor(socket, {&byte, 1}, descriptor) == 1) return {};
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
