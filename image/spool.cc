// SPDX-License-Identifier: Apache-2.0
#include "image/spool.h"

#include <cerrno>
#include <cstdlib>

#include <fcntl.h>
#include <unistd.h>

namespace mayfly::image {

std::unexpected<Error> io_error(int os_errno, const char* what, const std::string& name) {
  switch (os_errno) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return fail_errno({Code::kResourceExhausted, "NO_SPACE"}, os_errno, "%s %s", what,
                        name.c_str());
    case ENOENT:
      return fail_errno({Code::kNotFound, "IMAGE_IO"}, os_errno, "%s %s", what, name.c_str());
    case EACCES:
    case EPERM:
    case EROFS:
      return fail_errno({Code::kPermissionDenied, "IMAGE_IO"}, os_errno, "%s %s", what,
                        name.c_str());
    default:
      return fail_errno({Code::kUnavailable, "IMAGE_IO"}, os_errno, "%s %s", what, name.c_str());
  }
}

Result<Spool> Spool::create(const std::string& directory) {
  std::string name = directory + "/spool-XXXXXX";
  Fd file(::mkostemp(name.data(), O_CLOEXEC));
  if (!file.valid()) return io_error(errno, "make a file in", directory);
  if (::unlink(name.c_str()) != 0) return io_error(errno, "remove", name);
  return Spool(std::move(file));
}

Result<uint64_t> Spool::append(std::span<const std::byte> bytes) {
  const uint64_t start = size_;
  if (const Result<> written = write_all(file_.ref(), bytes); !written) {
    return io_error(written.error().os_errno(), "write", "a temporary file for the image");
  }
  size_ += bytes.size();
  return start;
}

}  // namespace mayfly::image
