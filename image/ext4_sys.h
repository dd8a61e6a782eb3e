// SPDX-License-Identifier: Apache-2.0
//
// A tree of files as an ext4 file system in a file, by libext2fs: no privilege is needed for files
// of any owner, nothing is mounted, and no file of the image ever exists on the host.
//
// The same tree gives the same bytes. There is no journal: an image is attached read-only, or as a
// copy for one VM.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "image/tree.h"

#include <array>
#include <cstdint>
#include <string>

namespace mayfly::image {

struct Ext4Options {
  /// 0: what the files need, a quarter more, and 128 MiB.
  uint64_t size_bytes = 0;
  std::array<uint8_t, 16> uuid = {};
};

struct Ext4Size {
  uint64_t size_bytes = 0;
  uint64_t content_bytes = 0;
  uint64_t files = 0;
};

/// Writes `path`, which must not exist; after an error it may be there in part. A size that is too
/// small is IMAGE_SIZE_MIB.
Result<Ext4Size> write_ext4(const std::string& path, const Tree& tree, FdRef spool,
                            const Ext4Options& options);

}  // namespace mayfly::image
