// SPDX-License-Identifier: Apache-2.0
//
// Frames of zstd, each of which is expanded by itself and all at once. What is expanded is hostile:
// it is never larger than it is said to be, and its window takes no memory of its own.
//
// One thread at a time.
#pragma once

#include "base/error.h"

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

struct ZSTD_CCtx_s;
struct ZSTD_DCtx_s;

namespace mayfly::snapshot {

class FrameWriter {
 public:
  FrameWriter();
  ~FrameWriter();
  FrameWriter(const FrameWriter&) = delete;
  FrameWriter& operator=(const FrameWriter&) = delete;

  /// The frame of `bytes`, until the next call.
  Result<std::span<const std::byte>> compress(std::span<const std::byte> bytes);

 private:
  ZSTD_CCtx_s* context_ = nullptr;  // made when it is first needed
  std::vector<std::byte> frame_;
};

class FrameReader {
 public:
  FrameReader();
  ~FrameReader();
  FrameReader(const FrameReader&) = delete;
  FrameReader& operator=(const FrameReader&) = delete;

  /// Where to read a frame to.
  std::span<std::byte> room(size_t bytes);
  /// What the frame holds, which is `bytes`, until the next call; kDataLoss where it is anything
  /// else.
  Result<std::span<const std::byte>> expand(std::span<const std::byte> frame, size_t bytes);

 private:
  ZSTD_DCtx_s* context_ = nullptr;  // made when it is first needed
  std::vector<std::byte> frame_;
  std::vector<std::byte> expanded_;
};

}  // namespace mayfly::snapshot
