// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/image_file.h"

#include <cerrno>
#include <limits>

#include <unistd.h>

namespace mayfly::boot {
namespace {

std::unexpected<Error> truncated(uint64_t offset, uint64_t size) {
  return fail({Code::kInvalidArgument, "IMAGE_TRUNCATED"},
              "the file is truncated: %llu bytes at offset %llu are past its end",
              static_cast<unsigned long long>(size), static_cast<unsigned long long>(offset));
}

bool is_file_range(uint64_t offset, uint64_t size) {
  constexpr uint64_t kLimit = std::numeric_limits<off_t>::max();
  return size <= kLimit && offset <= kLimit - size;
}

}  // namespace

Result<> read_image(FdRef file, std::span<std::byte> out, uint64_t offset) {
  if (!is_file_range(offset, out.size())) return truncated(offset, out.size());
  Result<> result = pread_exact(file, out, offset);
  if (!result && result.error().reason() == "FILE_TOO_SHORT") return truncated(offset, out.size());
  return result;
}

Result<> read_into(FdRef file, const GuestSpan& span, uint64_t offset) {
  if (!is_file_range(offset, span.size())) return truncated(offset, span.size());
  uint64_t done = 0;
  while (done < span.size()) {
    const iovec rest = span.subspan(done, span.size() - done).as_iovec();
    // SAFETY: the iovec is inside guest RAM, which outlives the call; the kernel does the copy.
    const ssize_t n = ::preadv(file.number(), &rest, 1, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return fail_errno({Code::kUnavailable, "READ_FAILED"}, errno, "read image");
    if (n == 0) return truncated(offset, span.size());
    done += static_cast<uint64_t>(n);
  }
  return {};
}

}  // namespace mayfly::boot
