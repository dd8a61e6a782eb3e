// SPDX-License-Identifier: Apache-2.0
#include "image/directory_bytes.h"

#include <algorithm>
#include <bit>

namespace mayfly::image {

static_assert(std::endian::native == std::endian::little, "the disk's byte order");

void DirectoryBytes::add(const std::string& name, uint32_t inode, uint8_t type) {
  const size_t size = entry_size(name.size());
  if (bytes_.size() % kDirectoryBlockBytes + size > kDirectoryBlockBytes) finish();
  last_ = bytes_.size();
  bytes_.resize(bytes_.size() + size);
  put16(last_, static_cast<uint16_t>(inode));
  put16(last_ + 2, static_cast<uint16_t>(inode >> 16));
  put16(last_ + 4, static_cast<uint16_t>(size));
  bytes_[last_ + 6] = static_cast<char>(name.size());
  bytes_[last_ + 7] = static_cast<char>(type);
  std::ranges::copy(name, bytes_.begin() + static_cast<ptrdiff_t>(last_) + 8);
}

const std::string& DirectoryBytes::finish() {
  const size_t rest = bytes_.size() % kDirectoryBlockBytes;
  if (rest == 0) return bytes_;
  bytes_.resize(bytes_.size() + kDirectoryBlockBytes - rest);
  put16(last_ + 4, static_cast<uint16_t>(bytes_.size() - last_));
  return bytes_;
}

void DirectoryBytes::put16(size_t at, uint16_t value) {
  bytes_[at] = static_cast<char>(value);
  bytes_[at + 1] = static_cast<char>(value >> 8);
}

}  // namespace mayfly::image
