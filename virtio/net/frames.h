// SPDX-License-Identifier: Apache-2.0
//
// Ethernet frames on a stream, as QEMU's stream sockets have them: a length of 4 bytes, big-endian,
// and that many bytes. What is read comes from a program that may be anything. Bounded; pure.
#pragma once

#include "base/error.h"
#include "virtio/net/backend.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

namespace mayfly::virtio::net {

inline constexpr size_t kFrameLengthBytes = 4;
using FrameLength = std::array<std::byte, kFrameLengthBytes>;

FrameLength encode_frame_length(size_t bytes);

/// Cuts a stream into frames. Holds two of the longest.
class FrameReader {
 public:
  FrameReader();

  /// Where the next bytes go; never empty once next() has said that there is no whole frame.
  std::span<std::byte> room();
  /// The first `count` of them are there.
  void filled(size_t count);
  /// The next whole frame, until room() is called; nullopt: more bytes are needed. An Error, for
  /// good: a frame of a length that none has.
  Result<std::optional<std::span<const std::byte>>> next();

 private:
  static constexpr size_t kBytes = 2 * (kFrameLengthBytes + kMaxFrameBytes);

  const std::unique_ptr<std::byte[]> buffer_;
  size_t begin_ = 0;
  size_t end_ = 0;
};

}  // namespace mayfly::virtio::net
