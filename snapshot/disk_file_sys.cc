// SPDX-License-Identifier: Apache-2.0
#include "snapshot/disk_file_sys.h"

#include "snapshot/files.h"
#include "snapshot/ram_source.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace mayfly::snapshot {
namespace {

// How much is copied between two questions whether to go on.
constexpr uint64_t kStepBytes = 8 << 20;
constexpr uint64_t kBufferBytes = 1 << 20;

bool is_zero(std::span<const std::byte> bytes) {
  return bytes[0] == std::byte{} &&
         std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
}

bool is_full(int os_errno) { return os_errno == ENOSPC || os_errno == EDQUOT || os_errno == EFBIG; }

std::unexpected<Error> disk_error(int os_errno, const char* what) {
  if (is_full(os_errno)) {
    return fail_errno({Code::kResourceExhausted, "NO_SPACE"}, os_errno, "disk: %s", what);
  }
  return fail_errno({Code::kUnavailable, "SNAPSHOT_IO"}, os_errno, "disk: %s", what);
}

Result<> go(const GoOn& go_on) { return go_on ? go_on() : Result<>(); }

Result<> resize(FdRef file, uint64_t size_bytes) {
  if (::ftruncate(file.number(), static_cast<off_t>(size_bytes)) == 0) return {};
  return disk_error(errno, "set its length");
}

// From `offset` to where data ends; a file system that knows no holes says all is data.
uint64_t end_of_data(FdRef file, uint64_t offset, uint64_t end) {
  const off_t hole = ::lseek(file.number(), static_cast<off_t>(offset), SEEK_HOLE);
  return hole < 0 ? end : std::min(static_cast<uint64_t>(hole), end);
}

Result<uint64_t> next_data(FdRef file, uint64_t offset, uint64_t end) {
  const auto next = next_data_in(file, offset, end);
  if (!next && next.error().os_errno() == EINVAL) return offset;  // A device without holes.
  return next;
}

// Through our own memory, for two file systems of different kinds. Zeroes become holes.
Result<> copy_by_reading(FdRef from, FdRef to, uint64_t offset, uint64_t size) {
  std::vector<std::byte> buffer(std::min(size, kBufferBytes));
  while (size > 0) {
    const auto bytes = std::span(buffer).first(std::min<uint64_t>(size, buffer.size()));
    TRY(pread_exact(from, bytes, offset));
    for (size_t at = 0; at < bytes.size(); at += kDiskPieceBytes) {
      const auto piece = bytes.subspan(at, std::min<size_t>(kDiskPieceBytes, bytes.size() - at));
      if (!is_zero(piece)) TRY(write_at(to, piece, offset + at));
    }
    offset += bytes.size();
    size -= bytes.size();
  }
  return {};
}

// In the kernel; how much, or 0 where the two files are not for that.
Result<uint64_t> copy_in_kernel(FdRef from, FdRef to, uint64_t offset, uint64_t size) {
  auto in = static_cast<off_t>(offset), out = in;
  const ssize_t copied = ::copy_file_range(from.number(), &in, to.number(), &out, size, 0);
  if (copied >= 0) return static_cast<uint64_t>(copied);
  if (errno == EINTR) return copy_in_kernel(from, to, offset, size);
  if (errno == EXDEV || errno == EINVAL || errno == EOPNOTSUPP || errno == ENOSYS) return 0;
  return disk_error(errno, "copy");
}

Result<> copy_data(FdRef from, FdRef to, uint64_t offset, uint64_t end, const GoOn& go_on) {
  while (offset < end) {
    TRY(go(go_on));
    const uint64_t step = std::min(end - offset, kStepBytes);
    uint64_t copied = TRY(copy_in_kernel(from, to, offset, step));
    if (copied == 0) {
      TRY(copy_by_reading(from, to, offset, step));
      copied = step;
    }
    offset += copied;
  }
  return {};
}

// Errors of file systems that do not share blocks, or not these two files'.
bool cannot_share(int os_errno) {
  return os_errno == EOPNOTSUPP || os_errno == EXDEV || os_errno == EINVAL || os_errno == ENOTTY ||
         os_errno == ENOSYS || os_errno == ETXTBSY;
}

// Through all that is data, a piece at a time.
Result<Digest> walk(FdRef file, bool punch, const GoOn& go_on) {
  const uint64_t size = TRY(file_size(file));
  std::vector<std::byte> buffer(kDiskPieceBytes);
  Hasher hasher;
  uint64_t since_question = kStepBytes;
  for (uint64_t offset = TRY(next_data(file, 0, size)); offset < size;) {
    const uint64_t number = offset / kDiskPieceBytes;
    const uint64_t start = number * kDiskPieceBytes;
    const auto piece = std::span(buffer).first(std::min(kDiskPieceBytes, size - start));
    if (since_question >= kStepBytes) {
      TRY(go(go_on));
      since_question = 0;
    }
    since_question += piece.size();
    TRY(pread_exact(file, piece, start));
    if (!is_zero(piece)) {
      hasher.add(std::as_bytes(std::span(&number, 1)));
      hasher.add(piece);
    } else if (punch) {
      // Where it cannot be done they stay stored, and nothing else.
      (void)::fallocate(file.number(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                        static_cast<off_t>(start), static_cast<off_t>(piece.size()));
    }
    if (size - start <= kDiskPieceBytes) break;
    offset = TRY(next_data(file, start + kDiskPieceBytes, size));
  }
  return hasher.digest();
}

}  // namespace

Result<bool> share_disk(FdRef from, FdRef to, uint64_t size_bytes) {
  const uint64_t there = TRY(file_size(from));
  if (there < size_bytes) {
    return fail({Code::kFailedPrecondition, "DISK_MISMATCH"},
                "disk: its file has %llu bytes, where %llu belong",
                static_cast<unsigned long long>(there),
                static_cast<unsigned long long>(size_bytes));
  }
  // SAFETY: the request's argument is a descriptor's number, no memory.
  if (::ioctl(to.number(), FICLONE, from.number()) != 0) {
    if (cannot_share(errno)) return false;
    return disk_error(errno, "share its blocks");
  }
  TRY(resize(to, size_bytes));
  return true;
}

Result<CopyWay> copy_disk(FdRef from, FdRef to, uint64_t size_bytes, const GoOn& go_on) {
  TRY(go(go_on));
  if (TRY(share_disk(from, to, size_bytes))) return CopyWay::kShared;
  TRY(resize(to, 0));
  TRY(resize(to, size_bytes));
  for (uint64_t offset = TRY(next_data(from, 0, size_bytes)); offset < size_bytes;) {
    const uint64_t end = end_of_data(from, offset, size_bytes);
    TRY(copy_data(from, to, offset, end, go_on));
    if (end >= size_bytes) break;
    offset = TRY(next_data(from, end, size_bytes));
  }
  return CopyWay::kCopied;
}

Result<Digest> digest_disk(FdRef file, const GoOn& go_on) { return walk(file, false, go_on); }

Result<Digest> settle_disk(FdRef file, const GoOn& go_on) { return walk(file, true, go_on); }

Result<Fd> named_and_unlinked_in(FdRef directory) {
  const std::string name = TRY(temporary_name(kDiskFile));
  Fd file = TRY(create_file_at(directory, name.c_str()));
  // Somebody's sweep() may have been quicker.
  if (::unlinkat(directory.number(), name.c_str(), 0) != 0 && errno != ENOENT) {
    return disk_error(errno, "take its file's name away");
  }
  return file;
}

Result<Fd> nameless_file_in(FdRef directory) {
  Fd file(::openat(directory.number(), ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600));
  if (file.valid()) return file;
  // overlayfs before Linux 6.3, for one.
  if (errno == EOPNOTSUPP || errno == EISDIR) return named_and_unlinked_in(directory);
  return disk_error(errno, "make a file for it");
}

}  // namespace mayfly::snapshot
