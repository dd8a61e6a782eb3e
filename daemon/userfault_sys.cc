// SPDX-License-Identifier: Apache-2.0
#include "daemon/userfault_sys.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <string_view>
#include <utility>

#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr std::string_view kIsOne = "anon_inode:[userfaultfd]";
constexpr size_t kFaultsAtOnce = 32;
// Of one fill(): the kernel asks to try again while the address space is being changed.
constexpr int kMaxTries = 1000;

std::unexpected<Error> failed(const char* what) {
  if (errno == ESRCH) {
    return fail({Code::kCancelled, "VM_GONE"}, "%s: the VM's address space is gone", what);
  }
  return fail_errno({Code::kUnavailable, "USERFAULT"}, errno, "%s", what);
}

Result<> check_kind(FdRef fd) {
  std::array<char, 64> target;
  const ssize_t size =
      ::readlink(format("/proc/self/fd/%d", fd.number()).c_str(), target.data(), target.size());
  if (size > 0 && std::string_view(target.data(), static_cast<size_t>(size)) == kIsOne) return {};
  return fail({Code::kUnavailable, "USERFAULT"}, "what the monitor sent is no userfaultfd");
}

}  // namespace

Result<Userfault> Userfault::adopt(Fd fd) {
  TRY(check_kind(fd.ref()));
  TRY(set_nonblocking(fd.ref(), true));
  uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM, .ioctls = 0};
  // SAFETY: the kernel reads and writes this one struct.
  if (::ioctl(fd.number(), UFFDIO_API, &api) != 0) return failed("userfaultfd: begin with it");
  return Userfault(std::move(fd));
}

Result<> Userfault::watch(uint64_t address, uint64_t size_bytes) {
  uffdio_register range = {.range = {.start = address, .len = size_bytes},
                           .mode = UFFDIO_REGISTER_MODE_MISSING,
                           .ioctls = 0};
  // SAFETY: as above; the addresses are the monitor's, and it is its memory that is changed.
  if (::ioctl(fd_.number(), UFFDIO_REGISTER, &range) != 0) return failed("userfaultfd: register");
  return {};
}

Result<> Userfault::unwatch(uint64_t address, uint64_t size_bytes) {
  uffdio_range range = {.start = address, .len = size_bytes};
  // SAFETY: as in watch().
  if (::ioctl(fd_.number(), UFFDIO_UNREGISTER, &range) != 0) {
    return failed("userfaultfd: unregister");
  }
  return {};
}

Result<> Userfault::wake(uint64_t address, uint64_t size_bytes) {
  uffdio_range range = {.start = address, .len = size_bytes};
  // SAFETY: as in watch().
  if (::ioctl(fd_.number(), UFFDIO_WAKE, &range) != 0) return failed("userfaultfd: wake");
  return {};
}

Result<> Userfault::fill(uint64_t address, std::span<const std::byte> pages) {
  for (int tries = 0; !pages.empty();) {
    uffdio_copy copy = {.dst = address,
                        .src = std::bit_cast<uintptr_t>(pages.data()),
                        .len = pages.size(),
                        .mode = 0,
                        .copy = 0};
    // SAFETY: the kernel reads `pages`, which is as long as it is told.
    const bool ok = ::ioctl(fd_.number(), UFFDIO_COPY, &copy) == 0;
    const int error = ok ? 0 : errno;
    // Part of it may have been done whatever the answer.
    uint64_t done =
        copy.copy > 0 ? std::min<uint64_t>(static_cast<uint64_t>(copy.copy), pages.size()) : 0;
    if (done == 0 && error == EEXIST) {
      done = kPageBytes;
      TRY(wake(address, kPageBytes));
    }
    if (done == 0 && error != 0 && (error != EAGAIN || ++tries > kMaxTries)) {
      errno = error == ENOENT ? ESRCH : error;
      return failed("userfaultfd: copy");
    }
    address += done;
    pages = pages.subspan(done);
  }
  return {};
}

Result<size_t> Userfault::read_faults(std::span<uint64_t> addresses) {
  std::array<uffd_msg, kFaultsAtOnce> messages;
  const size_t room = std::min(addresses.size(), messages.size());
  // SAFETY: the kernel writes at most as many bytes as it is told.
  const ssize_t size = ::read(fd_.number(), messages.data(), room * sizeof(uffd_msg));
  if (size < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
  if (size < 0) return failed("userfaultfd: read");
  size_t count = 0;
  for (size_t i = 0; i < static_cast<size_t>(size) / sizeof(uffd_msg); ++i) {
    // No other event was asked for.
    if (messages[i].event != UFFD_EVENT_PAGEFAULT) continue;
    addresses[count++] = messages[i].arg.pagefault.address;
  }
  return count;
}

}  // namespace mayfly::daemon
