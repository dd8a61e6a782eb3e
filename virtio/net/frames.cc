// SPDX-License-Identifier: Apache-2.0
#include "virtio/net/frames.h"

#include <algorithm>

namespace mayfly::virtio::net {

FrameLength encode_frame_length(size_t bytes) {
  FrameLength length;
  for (size_t i = 0; i < length.size(); ++i) {
    length[i] = static_cast<std::byte>(bytes >> (8 * (length.size() - 1 - i)));
  }
  return length;
}

FrameReader::FrameReader() : buffer_(new std::byte[kBytes]) {}

std::span<std::byte> FrameReader::room() {
  // What is left of a frame goes to the front where there is no place for the rest of it.
  if (begin_ == end_) {
    begin_ = end_ = 0;
  } else if (begin_ > kBytes / 2) {
    std::copy(buffer_.get() + begin_, buffer_.get() + end_, buffer_.get());
    end_ -= begin_;
    begin_ = 0;
  }
  return {buffer_.get() + end_, kBytes - end_};
}

void FrameReader::filled(size_t count) {
  CHECK(count <= kBytes - end_);
  end_ += count;
}

Result<std::optional<std::span<const std::byte>>> FrameReader::next() {
  const std::span<const std::byte> held(buffer_.get() + begin_, end_ - begin_);
  if (held.size() < kFrameLengthBytes) return std::nullopt;
  size_t size = 0;
  for (const std::byte byte : held.first(kFrameLengthBytes)) {
    size = size << 8 | static_cast<size_t>(byte);
  }
  if (size == 0 || size > kMaxFrameBytes) {
    return fail({Code::kUnavailable, "NET_STREAM"},
                "net: a frame of %zu bytes came, which is not 1 to %zu", size, kMaxFrameBytes);
  }
  if (held.size() - kFrameLengthBytes < size) return std::nullopt;
  begin_ += kFrameLengthBytes + size;
  return held.subspan(kFrameLengthBytes, size);
}

}  // namespace mayfly::virtio::net
