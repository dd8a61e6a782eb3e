// SPDX-License-Identifier: Apache-2.0
//
// Where an image is read from: the files of an OCI layout's directory, or those of an archive (a
// tar, may be compressed) with such a layout or with what `docker save` writes. An archive is read
// once, from its beginning, so it may be a pipe; its files wait in a spool. Their names are looked
// up and never opened on the host.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "image/limits.h"
#include "image/spool.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>

namespace mayfly::image {

/// A part of a file; the Source owns the file.
struct Part {
  FdRef file;
  uint64_t offset = 0;
  uint64_t size = 0;
};

class Source {
 public:
  Source() = default;
  virtual ~Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  /// `name` is relative; the Part is good until the next call. No such file: kNotFound.
  virtual Result<Part> open(const std::string& name) = 0;
};

/// `path`: a directory, a file, or "-" for standard input. What has to wait does so on the file
/// system of `spool_directory`.
Result<std::unique_ptr<Source>> open_source(const std::string& path,
                                            const std::string& spool_directory,
                                            const Limits& limits);

/// All of a small file; more than Limits::json_bytes is IMAGE_LIMIT.
Result<std::string> read_text(const Part& part, const std::string& name, const Limits& limits);

}  // namespace mayfly::image
