// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/frame.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace mayfly::guest {
namespace {

using Payload = std::vector<std::byte>;

Payload payload_of(size_t size, uint8_t seed) {
  Payload bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(seed + i * 7);
  return bytes;
}

// Feeds `stream` in pieces of at most `piece` bytes and returns every frame.
std::vector<Payload> decode(std::span<const std::byte> stream, size_t piece) {
  FrameDecoder decoder;
  std::vector<Payload> frames;
  while (!stream.empty()) {
    const std::span<std::byte> room = decoder.room();
    const size_t count = std::min({piece, room.size(), stream.size()});
    REQUIRE_GT(count, 0u);
    std::memcpy(room.data(), stream.data(), count);
    decoder.filled(count);
    stream = stream.subspan(count);
    for (;;) {
      const auto frame = decoder.next();
      REQUIRE(frame.has_value());
      if (!*frame) break;
      frames.emplace_back((*frame)->begin(), (*frame)->end());
    }
  }
  return frames;
}

TEST_CASE("frames come out whole however the stream is split") {
  const std::vector<Payload> sent = {payload_of(0, 1), payload_of(1, 2), payload_of(300, 3),
                                     payload_of(0, 4)};
  SendQueue queue;
  for (const Payload& payload : sent) queue.add_frame(payload);
  for (size_t piece = 1; piece <= queue.size(); ++piece) {
    CAPTURE(piece);
    CHECK_UNARY(decode(queue.pending(), piece) == sent);
  }
}

TEST_CASE("one split at every byte loses nothing") {
  const std::vector<Payload> sent = {payload_of(5, 1), payload_of(9, 2)};
  SendQueue queue;
  for (const Payload& payload : sent) queue.add_frame(payload);
  for (size_t split = 0; split <= queue.size(); ++split) {
    CAPTURE(split);
    FrameDecoder decoder;
    std::vector<Payload> frames;
    for (const auto part : {queue.pending().first(split), queue.pending().subspan(split)}) {
      if (!part.empty()) std::memcpy(decoder.room().data(), part.data(), part.size());
      decoder.filled(part.size());
      for (auto frame = decoder.next(); frame.has_value() && *frame; frame = decoder.next()) {
        frames.emplace_back((*frame)->begin(), (*frame)->end());
      }
    }
    CHECK_UNARY(frames == sent);
  }
}

TEST_CASE("the greatest frames pass, one after the other") {
  const std::vector<Payload> sent = {payload_of(kMaxFrameBytes, 1), payload_of(kMaxFrameBytes, 2)};
  SendQueue queue;
  for (const Payload& payload : sent) queue.add_frame(payload);
  CHECK_UNARY(decode(queue.pending(), 1 << 20) == sent);
  CHECK_UNARY(decode(queue.pending(), 4096) == sent);
}

TEST_CASE("a length over the limit is refused before its bytes arrive, and stays refused") {
  for (const uint32_t length : {uint32_t{kMaxFrameBytes + 1}, 0x80000000u, 0xffffffffu}) {
    CAPTURE(length);
    FrameDecoder decoder;
    std::memcpy(decoder.room().data(), &length, sizeof(length));
    decoder.filled(sizeof(length));
    CHECK_UNARY(!decoder.next().has_value());
    CHECK_EQ(decoder.next().error().code(), Code::kInvalidArgument);
  }
}

TEST_CASE("a send queue gives back what was added, in any portions") {
  const Payload bytes = payload_of(1000, 9);
  for (const size_t portion : {1u, 7u, 333u, 1000u}) {
    SendQueue queue;
    queue.add_bytes(bytes);
    Payload out;
    while (!queue.empty()) {
      const auto pending = queue.pending();
      const size_t count = std::min<size_t>(portion, pending.size());
      out.insert(out.end(), pending.begin(), pending.begin() + static_cast<ptrdiff_t>(count));
      queue.sent(count);
    }
    CHECK_UNARY(out == bytes);
    CHECK_EQ(queue.size(), 0u);
  }
}

}  // namespace
}  // namespace mayfly::guest
