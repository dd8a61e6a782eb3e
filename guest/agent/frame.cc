// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/frame.h"

#include <algorithm>
#include <cstring>

namespace mayfly::guest {
namespace {

constexpr size_t kDecoderBytes = kFrameHeaderBytes + kMaxFrameBytes;

uint32_t load_le32(const std::byte* from) {
  uint32_t value = 0;
  for (int i = 3; i >= 0; --i) value = (value << 8) | std::to_integer<uint32_t>(from[i]);
  return value;
}

}  // namespace

FrameDecoder::FrameDecoder() : buffer_(new std::byte[kDecoderBytes]) {}

std::span<std::byte> FrameDecoder::room() {
  if (begin_ > 0) {
    std::copy(buffer_.get() + begin_, buffer_.get() + end_, buffer_.get());
    end_ -= begin_;
    begin_ = 0;
  }
  return {buffer_.get() + end_, kDecoderBytes - end_};
}

void FrameDecoder::filled(size_t count) {
  CHECK(count <= kDecoderBytes - end_);
  end_ += count;
}

Result<std::optional<std::span<const std::byte>>> FrameDecoder::next() {
  const size_t held = end_ - begin_;
  if (held < kFrameHeaderBytes) return std::nullopt;
  const std::byte* frame = buffer_.get() + begin_;
  const size_t length = load_le32(frame);
  if (length > kMaxFrameBytes) {
    return fail({Code::kInvalidArgument, "FRAME_SIZE"}, "a frame of %zu bytes, the limit is %zu",
                length, kMaxFrameBytes);
  }
  if (held - kFrameHeaderBytes < length) return std::nullopt;
  begin_ += kFrameHeaderBytes + length;
  return std::span<const std::byte>(frame + kFrameHeaderBytes, length);
}

void SendQueue::add_frame(std::span<const std::byte> payload) { add_frame(payload, {}); }

void SendQueue::add_frame(std::span<const std::byte> first, std::span<const std::byte> second) {
  const size_t size = first.size() + second.size();
  CHECK(size <= kMaxFrameBytes);
  std::byte header[kFrameHeaderBytes];
  for (size_t i = 0; i < kFrameHeaderBytes; ++i)
    header[i] = static_cast<std::byte>(size >> (8 * i));
  add_bytes(header);
  add_bytes(first);
  add_bytes(second);
}

void SendQueue::add_bytes(std::span<const std::byte> bytes) {
  const size_t at = bytes_.size();
  bytes_.resize(at + bytes.size());
  if (!bytes.empty()) std::memcpy(bytes_.data() + at, bytes.data(), bytes.size());
}

std::span<const std::byte> SendQueue::pending() const {
  return std::as_bytes(std::span(bytes_.data() + sent_, bytes_.size() - sent_));
}

void SendQueue::sent(size_t count) {
  CHECK(count <= size());
  sent_ += count;
  // Moving the rest down only once it is the smaller part keeps the cost per byte constant.
  if (sent_ >= bytes_.size() - sent_) {
    bytes_.erase(0, sent_);
    sent_ = 0;
  }
}

void SendQueue::clear() {
  bytes_.clear();
  sent_ = 0;
}

}  // namespace mayfly::guest
