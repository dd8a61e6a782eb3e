// SPDX-License-Identifier: Apache-2.0
#include "image/stream.h"

#include "image/spool.h"

#include <algorithm>
#include <cerrno>

#include <archive.h>
#include <archive_entry.h>
#include <unistd.h>

namespace mayfly::image {
namespace {

constexpr size_t kPieceBytes = 256 << 10;

}  // namespace

Result<> Stream::drain() {
  while (!TRY(next()).empty()) {
  }
  return {};
}

FileStream::FileStream(FdRef file, uint64_t offset, uint64_t size)
    : file_(file), offset_(offset), left_(size), buffer_(kPieceBytes) {}

Result<std::span<const std::byte>> FileStream::next() {
  const std::span<std::byte> piece =
      std::span(buffer_).first(static_cast<size_t>(std::min<uint64_t>(left_, buffer_.size())));
  if (const Result<> read = pread_exact(file_, piece, offset_); !read) {
    return fail({Code::kDataLoss, "IMAGE_TRUNCATED"}, "the file ends %llu bytes too early, or %s",
                static_cast<unsigned long long>(left_), read.error().message().c_str());
  }
  offset_ += piece.size();
  left_ -= piece.size();
  sha_.add(piece);
  return piece;
}

PipeStream::PipeStream(FdRef file) : file_(file), buffer_(kPieceBytes) {}

Result<std::span<const std::byte>> PipeStream::next() {
  for (;;) {
    const ssize_t n = ::read(file_.number(), buffer_.data(), buffer_.size());
    if (n >= 0) return std::span<const std::byte>(buffer_).first(static_cast<size_t>(n));
    if (errno != EINTR) return io_error(errno, "read", "the archive");
  }
}

Archive::Archive(Stream& in, Kind kind) : in_(in), kind_(kind), archive_(archive_read_new()) {
  CHECK(archive_ != nullptr);
}

Archive::~Archive() { archive_read_free(archive_); }

Result<> Archive::open() {
  // An archive without a byte has a format of its own.
  archive_read_support_format_empty(archive_);
  if (kind_ == Kind::kTar) {
    archive_read_support_format_tar(archive_);
  } else {
    archive_read_support_format_raw(archive_);
    archive_read_support_filter_gzip(archive_);
    archive_read_support_filter_zstd(archive_);
  }
  TRY(check(archive_read_open(archive_, this, nullptr, &Archive::read, nullptr)));
  return {};
}

Result<bool> Archive::check(int code) {
  if (code == ARCHIVE_OK) return true;
  if (code == ARCHIVE_EOF) return false;
  if (stream_error_) return std::unexpected(*stream_error_);
  // A warning: a name that is not in this locale, which we take byte for byte.
  if (code == ARCHIVE_WARN) return true;
  const char* text = archive_error_string(archive_);
  return fail({Code::kDataLoss, "IMAGE_ARCHIVE"}, "%s: %s",
              kind_ == Kind::kTar ? "tar" : "compressed bytes",
              text == nullptr ? "cannot be read" : text);
}

Result<bool> Archive::next_block(Block& block) {
  const void* bytes = nullptr;
  size_t size = 0;
  la_int64_t offset = 0;
  if (!TRY(check(archive_read_data_block(archive_, &bytes, &size, &offset)))) return false;
  if (offset < 0) return fail({Code::kDataLoss, "IMAGE_ARCHIVE"}, "tar: data before its file");
  block = {{static_cast<const std::byte*>(bytes), size}, static_cast<uint64_t>(offset)};
  return true;
}

ptrdiff_t Archive::read(struct archive* archive, void* self, const void** bytes) {
  auto* const reader = static_cast<Archive*>(self);
  auto piece = reader->in_.next();
  if (!piece) {
    reader->stream_error_ = std::move(piece).error();
    archive_set_error(archive, EIO, "the stream failed");
    return ARCHIVE_FATAL;
  }
  *bytes = piece->data();
  return static_cast<ptrdiff_t>(piece->size());
}

Result<std::span<const std::byte>> Decompressor::next() {
  if (!opened_) {
    opened_ = true;
    TRY(archive_.open());
    archive_entry* entry = nullptr;
    ended_ = !TRY(archive_.check(archive_read_next_header(archive_.get(), &entry)));
  }
  for (Archive::Block block; !ended_;) {
    if (!TRY(archive_.next_block(block))) {
      ended_ = true;
      break;
    }
    if (block.bytes.empty()) continue;
    if (block.bytes.size() > limit_ - given_) {
      return fail({Code::kResourceExhausted, "IMAGE_LIMIT"},
                  "bytes of all layers, decompressed: above the limit of what is left, %llu",
                  static_cast<unsigned long long>(limit_));
    }
    given_ += block.bytes.size();
    sha_.add(block.bytes);
    return block.bytes;
  }
  return std::span<const std::byte>();
}

}  // namespace mayfly::image
