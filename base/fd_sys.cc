// SPDX-License-Identifier: Apache-2.0
#include "base/fd.h"

#include <cerrno>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly {

void Fd::reset() {
  if (number_ >= 0) ::close(number_);
  number_ = -1;
}

Result<Fd> Fd::event() {
  const int number = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (number < 0) return fail_errno({Code::kResourceExhausted, "EVENTFD"}, errno, "eventfd");
  return Fd(number);
}

Result<Fd> Fd::memfd(const char* name, uint64_t size_bytes) {
  Fd fd(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) {
    return fail_errno({Code::kResourceExhausted, "MEMFD"}, errno, "memfd_create %s", name);
  }
  if (::ftruncate(fd.number(), static_cast<off_t>(size_bytes)) != 0) {
    return fail_errno({Code::kResourceExhausted, "MEMFD"}, errno, "memfd %s of %llu bytes", name,
                      static_cast<unsigned long long>(size_bytes));
  }
  return fd;
}

Result<Fd> Fd::open(const char* path, int flags, unsigned mode) {
  const int number = ::open(path, flags | O_CLOEXEC, mode);
  if (number < 0) {
    const Code code = errno == ENOENT   ? Code::kNotFound
                      : errno == EACCES ? Code::kPermissionDenied
                                        : Code::kFailedPrecondition;
    return fail_errno({code, "OPEN_FAILED"}, errno, "open %s", path);
  }
  return Fd(number);
}

Result<Fd> Fd::duplicate(FdRef fd) {
  const int number = ::fcntl(fd.number(), F_DUPFD_CLOEXEC, 0);
  if (number < 0) {
    return fail_errno({Code::kResourceExhausted, "DUP"}, errno, "duplicate descriptor %d",
                      fd.number());
  }
  return Fd(number);
}

Result<std::pair<Fd, Fd>> Fd::pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    return fail_errno({Code::kResourceExhausted, "PIPE"}, errno, "pipe");
  }
  return std::pair(Fd(ends[0]), Fd(ends[1]));
}

Result<std::pair<Fd, Fd>> Fd::socket_pair(int type) {
  int ends[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) != 0) {
    return fail_errno({Code::kResourceExhausted, "SOCKETPAIR"}, errno, "socketpair");
  }
  return std::pair(Fd(ends[0]), Fd(ends[1]));
}

void signal_event(FdRef event) {
  const uint64_t one = 1;
  while (::write(event.number(), &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

void clear_event(FdRef event) {
  uint64_t count = 0;
  while (::read(event.number(), &count, sizeof(count)) < 0 && errno == EINTR) {
  }
}

Result<> set_nonblocking(FdRef fd, bool on) {
  const int flags = ::fcntl(fd.number(), F_GETFL);
  const int wanted = on ? (flags | O_NONBLOCK) : (flags & ~O_NONBLOCK);
  if (flags < 0 || ::fcntl(fd.number(), F_SETFL, wanted) != 0) {
    return fail_errno({Code::kInternal, "FCNTL"}, errno, "fcntl of descriptor %d", fd.number());
  }
  return {};
}

Result<> pread_exact(FdRef fd, std::span<std::byte> out, uint64_t offset) {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t n = ::pread(fd.number(), out.data() + done, out.size() - done,
                              static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno({Code::kUnavailable, "READ_FAILED"}, errno, "read");
    if (n == 0) {
      return fail({Code::kOutOfRange, "FILE_TOO_SHORT"},
                  "file ends at byte %llu, but %zu bytes at %llu were expected",
                  static_cast<unsigned long long>(offset + done), out.size(),
                  static_cast<unsigned long long>(offset));
    }
    done += static_cast<size_t>(n);
  }
  return {};
}

Result<> write_all(FdRef fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd.number(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno({Code::kUnavailable, "WRITE_FAILED"}, errno, "write");
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
  return {};
}

Result<uint64_t> file_size(FdRef fd) {
  struct stat info;
  if (::fstat(fd.number(), &info) != 0) {
    return fail_errno({Code::kInternal, "FSTAT"}, errno, "fstat of descriptor %d", fd.number());
  }
  if (S_ISBLK(info.st_mode)) {
    uint64_t size = 0;
    // SAFETY: the request writes one 64-bit number.
    if (::ioctl(fd.number(), BLKGETSIZE64, &size) != 0) {
      return fail_errno({Code::kUnavailable, "BLKGETSIZE64"}, errno, "size of block device");
    }
    return size;
  }
  if (S_ISDIR(info.st_mode)) {
    return fail({Code::kInvalidArgument, "IS_A_DIRECTORY"}, "is a directory, not a file");
  }
  if (!S_ISREG(info.st_mode)) {
    return fail({Code::kInvalidArgument, "NOT_A_FILE"},
                "is neither a regular file nor a block device");
  }
  return static_cast<uint64_t>(info.st_size);
}

}  // namespace mayfly
