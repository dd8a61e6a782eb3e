// SPDX-License-Identifier: Apache-2.0
#include "snapshot/zstd_frame.h"

#include <zstd.h>

namespace mayfly::snapshot {
namespace {

// The fastest of those that zstd recommends: a snapshot is written while its VM runs.
constexpr int kLevel = 1;

std::unexpected<Error> no_memory() {
  return fail({Code::kResourceExhausted, "NO_MEMORY"}, "zstd: no memory");
}

}  // namespace

FrameWriter::FrameWriter() = default;
FrameWriter::~FrameWriter() { ::ZSTD_freeCCtx(context_); }

Result<std::span<const std::byte>> FrameWriter::compress(std::span<const std::byte> bytes) {
  if (context_ == nullptr) context_ = ::ZSTD_createCCtx();
  if (context_ == nullptr) return no_memory();
  frame_.resize(::ZSTD_compressBound(bytes.size()));
  const size_t size = ::ZSTD_compressCCtx(context_, frame_.data(), frame_.size(), bytes.data(),
                                          bytes.size(), kLevel);
  if (::ZSTD_isError(size)) {
    return fail({Code::kInternal, "ZSTD"}, "zstd: %s", ::ZSTD_getErrorName(size));
  }
  return std::span<const std::byte>(frame_).first(size);
}

FrameReader::FrameReader() = default;
FrameReader::~FrameReader() { ::ZSTD_freeDCtx(context_); }

std::span<std::byte> FrameReader::room(size_t bytes) {
  if (frame_.size() < bytes) frame_.resize(bytes);
  return std::span(frame_).first(bytes);
}

Result<std::span<const std::byte>> FrameReader::expand(std::span<const std::byte> frame,
                                                       size_t bytes) {
  if (context_ == nullptr) context_ = ::ZSTD_createDCtx();
  if (context_ == nullptr) return no_memory();
  if (expanded_.size() < bytes) expanded_.resize(bytes);
  const size_t size =
      ::ZSTD_decompressDCtx(context_, expanded_.data(), bytes, frame.data(), frame.size());
  if (::ZSTD_isError(size)) {
    return fail({Code::kDataLoss, "FRAME"}, "its frame: %s", ::ZSTD_getErrorName(size));
  }
  if (size != bytes) {
    return fail({Code::kDataLoss, "FRAME"}, "its frame holds %zu bytes, where %zu belong", size,
                bytes);
  }
  return std::span<const std::byte>(expanded_).first(size);
}

}  // namespace mayfly::snapshot
