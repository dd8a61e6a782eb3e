// SPDX-License-Identifier: Apache-2.0
#include "image/copy_file_sys.h"

#include "image/spool.h"

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <span>
#include <vector>

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace mayfly::image {
namespace {

constexpr size_t kPieceBytes = 1 << 20;

Result<> copy_range(FdRef from, FdRef to, off_t start, off_t end) {
  std::vector<std::byte> piece(kPieceBytes);
  if (::lseek(to.number(), start, SEEK_SET) != start) return io_error(errno, "seek in", "a copy");
  while (start < end) {
    const auto part = std::span(piece).first(
        static_cast<size_t>(std::min<off_t>(end - start, static_cast<off_t>(piece.size()))));
    TRY(pread_exact(from, part, static_cast<uint64_t>(start)));
    if (auto written = write_all(to, part); !written) {
      return io_error(written.error().os_errno(), "write", "a copy of the image");
    }
    start += static_cast<off_t>(part.size());
  }
  return {};
}

}  // namespace

Result<> copy_sparse(FdRef from, FdRef to) {
  // SAFETY: FICLONE takes a descriptor by value.
  if (::ioctl(to.number(), FICLONE, from.number()) == 0) return {};
  const auto size = static_cast<off_t>(TRY(file_size(from)));
  if (::ftruncate(to.number(), size) != 0) return io_error(errno, "size", "a copy of the image");
  for (off_t at = 0; at < size;) {
    const off_t start = ::lseek(from.number(), at, SEEK_DATA);
    if (start < 0 && errno == ENXIO) return {};
    const off_t end = start < 0 ? -1 : ::lseek(from.number(), start, SEEK_HOLE);
    if (end < 0) return io_error(errno, "read", "the image");
    TRY(copy_range(from, to, start, end));
    at = end;
  }
  return {};
}

}  // namespace mayfly::image
