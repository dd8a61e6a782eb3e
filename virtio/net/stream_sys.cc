// SPDX-License-Identifier: Apache-2.0
#include "virtio/net/stream_sys.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/uio.h>

namespace mayfly::virtio::net {
namespace {

constexpr uint32_t kReadableOp = 0;
constexpr uint32_t kWritableOp = 1;

// As in tap_sys.cc: the same system calls, and the same rules of a filter.
constexpr off_t kNowhere = -1;

Result<> check(FdRef socket) {
  struct stat status = {};
  const int flags = ::fcntl(socket.number(), F_GETFL);
  if (::fstat(socket.number(), &status) != 0 || !S_ISSOCK(status.st_mode)) {
    return fail({Code::kInvalidArgument, "NET_STREAM"}, "net: descriptor %d is no socket",
                socket.number());
  }
  if (flags < 0 || (flags & O_NONBLOCK) == 0) {
    return fail({Code::kInvalidArgument, "NET_STREAM"}, "net: the socket is not non-blocking");
  }
  return {};
}

ssize_t read_into(FdRef socket, std::span<std::byte> room) {
  const iovec piece = {room.data(), room.size()};
  ssize_t size;
  do {
    // SAFETY: the piece is `room`.
    size = ::preadv2(socket.number(), &piece, 1, kNowhere, 0);
  } while (size < 0 && errno == EINTR);
  return size;
}

ssize_t write_from(FdRef socket, std::span<const iovec> pieces) {
  ssize_t size;
  do {
    // SAFETY: the pieces are bytes of ours, and guest memory from GuestSpan; the kernel copies.
    size = ::pwritev2(socket.number(), pieces.data(), static_cast<int>(pieces.size()), kNowhere, 0);
  } while (size < 0 && errno == EINTR);
  return size;
}

}  // namespace

Result<std::unique_ptr<Stream>> Stream::create(Loop& loop, Fd socket) {
  TRY(check(socket.ref()));
  std::unique_ptr<Stream> stream(new Stream(loop, std::move(socket)));
  stream->rest_.reserve(kFrameLengthBytes + kMaxFrameBytes);
  stream->id_ = TRY(loop.add_client(*stream));
  stream->readable_ = TRY(loop.watch(stream->id_, stream->socket_.ref(), POLLIN, kReadableOp));
  return stream;
}

Stream::~Stream() {
  lose();
  loop_.remove_client(id_);
}

// The other end hears of it, and nothing is heard of the socket any more: one whose other end has
// gone would be ready for ever.
void Stream::lose() {
  if (writable_.valid()) loop_.remove_file(std::exchange(writable_, FileSlot{}));
  if (readable_.valid()) loop_.remove_file(std::exchange(readable_, FileSlot{}));
  socket_.reset();
}

void Stream::on_completion(uint32_t op, int32_t result) {
  if (op == kReadableOp) {
    // A device that nobody drives reads nothing, and would not see the end.
    if (result < 0 || (result & (POLLHUP | POLLERR)) != 0) {
      while (fill()) {
      }
    }
    return client_->on_frames_waiting();
  }
  if (writable_.valid()) loop_.remove_file(std::exchange(writable_, FileSlot{}));
  if (flush() || is_lost()) return client_->on_room_to_send();
  (void)wait_for_room();
}

// False: nothing came. Without room for more nobody takes what is there.
bool Stream::fill() {
  if (is_lost()) return false;
  const std::span<std::byte> room = reader_.room();
  const ssize_t size = room.empty() ? 0 : read_into(socket_.ref(), room);
  if (size > 0) {
    reader_.filled(static_cast<size_t>(size));
    return true;
  }
  if (size == 0 || errno != EAGAIN) lose();
  return false;
}

Result<std::optional<std::span<const std::byte>>> Stream::next_frame() {
  for (;;) {
    const auto frame = TRY(reader_.next());
    if (frame || !fill()) return frame;
  }
}

IoResult Stream::receive(Header& header, std::span<const iovec> frame) {
  CHECK(frame.size() <= kMaxPieces);
  header = {};
  const auto next = next_frame();
  if (!next) lose();
  if (!next || !*next) return {IoStatus::kWouldBlock};
  std::span<const std::byte> rest = **next;
  const size_t size = rest.size();
  if (size < kMinFrameBytes) return {IoStatus::kFailed};
  for (const iovec& piece : frame) {
    const size_t count = std::min(piece.iov_len, rest.size());
    // SAFETY: a piece is guest memory from GuestSpan, of its length.
    std::ranges::copy(rest.first(count), static_cast<std::byte*>(piece.iov_base));
    rest = rest.subspan(count);
  }
  return {IoStatus::kMoved, size};
}

IoResult Stream::send(const Header& header, std::span<const iovec> frame) {
  CHECK(frame.size() <= kMaxPieces);
  // There is nobody who would do what the guest has left to do, and it has not been offered.
  if (is_lost() || header.gso_type != kGsoNone || (header.flags & kHeaderNeedsCsum) != 0) {
    return {IoStatus::kFailed};
  }
  if (!flush()) return is_lost() ? IoResult{IoStatus::kFailed} : wait_for_room();
  size_t size = 0;
  for (const iovec& piece : frame) size += piece.iov_len;
  FrameLength length = encode_frame_length(size);
  pieces_[0] = {length.data(), length.size()};
  std::ranges::copy(frame, pieces_.begin() + 1);
  const std::span<const iovec> all = std::span(pieces_).first(frame.size() + 1);
  const ssize_t sent = write_from(socket_.ref(), all);
  if (sent < 0 && errno == EAGAIN) return wait_for_room();
  if (sent < 0) {
    lose();
    return {IoStatus::kFailed};
  }
  // The frame has gone, and what is left of it is ours to bring after it.
  size_t skip = static_cast<size_t>(sent);
  for (const iovec& piece : all) {
    const size_t gone = std::min(skip, piece.iov_len);
    skip -= gone;
    // SAFETY: as in receive().
    rest_.append(static_cast<const char*>(piece.iov_base) + gone, piece.iov_len - gone);
  }
  if (!rest_.empty()) (void)wait_for_room();
  return {IoStatus::kMoved, size};
}

// False: there is still something left to bring.
bool Stream::flush() {
  if (rest_.empty()) return true;
  const iovec piece = {rest_.data(), rest_.size()};
  const ssize_t sent = write_from(socket_.ref(), std::span(&piece, 1));
  if (sent < 0 && errno != EAGAIN) lose();
  if (sent > 0) rest_.erase(0, static_cast<size_t>(sent));
  return rest_.empty();
}

IoResult Stream::wait_for_room() {
  if (!writable_.valid()) {
    const Result<FileSlot> watched = loop_.watch(id_, socket_.ref(), POLLOUT, kWritableOp);
    if (!watched) return {IoStatus::kFailed};
    writable_ = *watched;
  }
  return {IoStatus::kWouldBlock};
}

}  // namespace mayfly::virtio::net
