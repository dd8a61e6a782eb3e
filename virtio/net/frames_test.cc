// SPDX-License-Identifier: Apache-2.0
#include "virtio/net/frames.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

namespace mayfly::virtio::net {
namespace {

using Bytes = std::vector<std::byte>;

Bytes frame_of(size_t size, unsigned seed) {
  Bytes bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = std::byte((i * 5 + seed) % 253);
  return bytes;
}

void append(Bytes& stream, const Bytes& frame) {
  const FrameLength length = encode_frame_length(frame.size());
  stream.insert(stream.end(), length.begin(), length.end());
  stream.insert(stream.end(), frame.begin(), frame.end());
}

TEST_CASE("a length is four bytes, the greatest first") {
  CHECK(encode_frame_length(0x01020304) ==
        FrameLength{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}});
}

TEST_CASE("frames come out as they went in, in whatever pieces they arrive") {
  std::vector<Bytes> frames;
  for (const size_t size : {size_t{1}, size_t{60}, size_t{1514}, kMaxFrameBytes, size_t{14},
                            kMaxFrameBytes, kMaxFrameBytes}) {
    frames.push_back(frame_of(size, static_cast<unsigned>(frames.size())));
  }
  Bytes stream;
  for (const Bytes& frame : frames) append(stream, frame);
  for (const size_t piece : {size_t{1}, size_t{7}, size_t{1000}, size_t{65'537}, stream.size()}) {
    FrameReader reader;
    size_t at = 0;
    std::vector<Bytes> got;
    while (got.size() < frames.size()) {
      const auto next = reader.next();
      REQUIRE_UNARY(next.has_value());
      if (*next) {
        got.emplace_back((*next)->begin(), (*next)->end());
        continue;
      }
      REQUIRE_LT(at, stream.size());
      const auto room = reader.room();
      REQUIRE_FALSE(room.empty());
      const size_t count = std::min({piece, room.size(), stream.size() - at});
      std::copy_n(stream.begin() + static_cast<ptrdiff_t>(at), count, room.begin());
      reader.filled(count);
      at += count;
    }
    CHECK(got == frames);
    CHECK_FALSE(reader.next()->has_value());
  }
}

TEST_CASE("a length that no frame has ends the stream, and is said") {
  for (const size_t size : {size_t{0}, kMaxFrameBytes + 1, size_t{0xffff'ffff}}) {
    FrameReader reader;
    const FrameLength length = encode_frame_length(size);
    std::ranges::copy(length, reader.room().begin());
    reader.filled(length.size());
    for (int i = 0; i < 2; ++i) {
      const auto next = reader.next();
      REQUIRE_FALSE(next.has_value());
      CHECK_EQ(next.error().reason(), "NET_STREAM");
    }
  }
}

}  // namespace
}  // namespace mayfly::virtio::net
