// SPDX-License-Identifier: Apache-2.0
//
// Bytes that come piece by piece: from a part of a file, or out of a compressed stream. Each knows
// the SHA-256 of what it gave.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "image/sha256.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

struct archive;

namespace mayfly::image {

class Stream {
 public:
  Stream() = default;
  virtual ~Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  /// The next bytes, which stay until the next call; none at the end.
  virtual Result<std::span<const std::byte>> next() = 0;

  /// Reads what is left, for the digest; nobody wants it.
  Result<> drain();
};

/// `size` bytes of a file from `offset`. A file that ends before is IMAGE_TRUNCATED.
class FileStream : public Stream {
 public:
  FileStream(FdRef file, uint64_t offset, uint64_t size);
  Result<std::span<const std::byte>> next() override;
  std::string digest() { return sha_.finish(); }

 private:
  const FdRef file_;
  uint64_t offset_;
  uint64_t left_;
  std::vector<std::byte> buffer_;
  Sha256 sha_;
};

/// All that can be read from a descriptor.
class PipeStream : public Stream {
 public:
  explicit PipeStream(FdRef file);
  Result<std::span<const std::byte>> next() override;

 private:
  const FdRef file_;
  std::vector<std::byte> buffer_;
};

/// libarchive over a Stream, which outlives it. What libarchive cannot read is IMAGE_ARCHIVE; an
/// error of the stream is that error.
class Archive {
 public:
  enum class Kind : uint8_t { kTar, kCompressed };
  /// Nothing is read yet.
  Archive(Stream& in, Kind kind);
  ~Archive();
  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;

  Result<> open();
  struct archive* get() const { return archive_; }
  /// Whether there was one (false: the end), from a call of libarchive's.
  Result<bool> check(int code);
  /// The data of the entry, piece by piece: false at its end.
  struct Block {
    std::span<const std::byte> bytes;
    uint64_t offset = 0;
  };
  Result<bool> next_block(Block& block);

 private:
  static ptrdiff_t read(struct archive* archive, void* self, const void** bytes);

  Stream& in_;
  const Kind kind_;
  struct archive* archive_;
  std::optional<Error> stream_error_;
};

/// What is inside gzip or zstd; other bytes as they are. More than `limit` bytes are IMAGE_LIMIT.
class Decompressor : public Stream {
 public:
  Decompressor(Stream& in, uint64_t limit)
      : archive_(in, Archive::Kind::kCompressed), limit_(limit) {}
  Result<std::span<const std::byte>> next() override;
  std::string digest() { return sha_.finish(); }
  uint64_t bytes_given() const { return given_; }

 private:
  Archive archive_;
  const uint64_t limit_;
  bool opened_ = false;
  bool ended_ = false;
  uint64_t given_ = 0;
  Sha256 sha_;
};

}  // namespace mayfly::image
