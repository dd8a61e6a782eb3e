// SPDX-License-Identifier: Apache-2.0
//
// Frames on a stream (proto/agent.proto): a 4-byte little-endian length, at most 64 KiB, and that
// many bytes. Both ends live on the agent's one thread. What is decoded comes from the host and is
// not trusted.
#pragma once

#include "base/error.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

namespace mayfly::guest {

inline constexpr size_t kFrameHeaderBytes = 4;
inline constexpr size_t kMaxFrameBytes = 64 * 1024;

/// Collects bytes and hands out whole frames. Holds at most one frame of the greatest size.
class FrameDecoder {
 public:
  FrameDecoder();

  /// Where the next bytes of the stream go. Empty while whole frames that fill the buffer wait.
  std::span<std::byte> room();
  /// The first `count` bytes of room() were filled.
  void filled(size_t count);
  /// The next whole frame's payload, valid until room() is called; nullopt: more bytes are needed.
  /// A length over the limit is kInvalidArgument, for good: the stream cannot be followed any more.
  Result<std::optional<std::span<const std::byte>>> next();

 private:
  std::unique_ptr<std::byte[]> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

/// Bytes waiting to be written to a stream. Its user bounds it: by what is pending before adding
/// more.
class SendQueue {
 public:
  /// `payload` is at most kMaxFrameBytes: longer is a bug of ours.
  void add_frame(std::span<const std::byte> payload);
  /// A payload in two parts, together at most kMaxFrameBytes.
  void add_frame(std::span<const std::byte> first, std::span<const std::byte> second);
  void add_bytes(std::span<const std::byte> bytes);
  std::span<const std::byte> pending() const;
  void sent(size_t count);
  bool empty() const { return sent_ == bytes_.size(); }
  size_t size() const { return bytes_.size() - sent_; }
  void clear();

 private:
  std::string bytes_;
  size_t sent_ = 0;
};

}  // namespace mayfly::guest
