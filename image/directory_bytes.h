// SPDX-License-Identifier: Apache-2.0
//
// A directory as ext4 has it on the disk: blocks of entries in no order, without an index.
// libext2fs can add names one by one, but looks through the whole directory for each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace mayfly::image {

inline constexpr size_t kDirectoryBlockBytes = 4096;

class DirectoryBytes {
 public:
  /// `name`: 1 to 255 bytes; `type`: one of EXT2_FT_*.
  void add(const std::string& name, uint32_t inode, uint8_t type);
  /// Whole blocks, once all are added.
  const std::string& finish();

  static size_t entry_size(size_t name_bytes) { return (8 + name_bytes + 3) & ~size_t{3}; }

 private:
  void put16(size_t at, uint16_t value);

  std::string bytes_;
  // Where the last entry begins, which reaches to the end of its block.
  size_t last_ = 0;
};

}  // namespace mayfly::image
