// SPDX-License-Identifier: Apache-2.0
//
// How much of an image is taken. Each limit is an error that names it, never a cut.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mayfly::image {

inline constexpr size_t kMaxNameBytes = 255;   // ext4's
inline constexpr size_t kMaxPathBytes = 4096;  // Linux's
inline constexpr size_t kMaxTargetBytes = 4095;
inline constexpr int kMaxLinksFollowed = 40;

struct Limits {
  /// All layers together, decompressed; and the files of an archive, likewise.
  uint64_t content_bytes = uint64_t{32} << 30;
  /// Files, directories and the like of all layers together, those that later layers hide
  /// included.
  uint32_t entries = 1'000'000;
  /// What the importer holds in memory for them: names, link targets, attributes, places of data.
  uint64_t metadata_bytes = uint64_t{512} << 20;
  /// Directories below directories.
  uint32_t depth = 512;
  /// Names looked up, so that links to links cannot keep the importer busy for ever.
  uint64_t lookups = 200'000'000;
  uint32_t layers = 256;
  uint32_t archive_files = 10'000;
  /// An index, a manifest or a configuration.
  uint64_t json_bytes = uint64_t{4} << 20;
};

}  // namespace mayfly::image
