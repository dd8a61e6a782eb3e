// SPDX-License-Identifier: Apache-2.0
//
// A file without a name for bytes that have a place in an image later. It is gone with its owner.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace mayfly::image {

/// The error of a failed system call: NO_SPACE for a full disk, else IMAGE_IO.
[[nodiscard]] std::unexpected<Error> io_error(int os_errno, const char* what,
                                              const std::string& name);

class Spool {
 public:
  /// On the file system of `directory`, which the caller may write to.
  static Result<Spool> create(const std::string& directory);

  /// Returns where the bytes begin.
  Result<uint64_t> append(std::span<const std::byte> bytes);
  uint64_t size() const { return size_; }
  FdRef file() const { return file_.ref(); }

 private:
  explicit Spool(Fd file) : file_(std::move(file)) {}

  Fd file_;
  uint64_t size_ = 0;
};

}  // namespace mayfly::image
