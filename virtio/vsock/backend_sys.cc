// SPDX-License-Identifier: Apache-2.0
#include "virtio/vsock/backend.h"

#include <cerrno>
#include <utility>

#include <poll.h>
#include <sys/socket.h>

namespace mayfly::virtio::vsock {
namespace {

msghdr message_of(std::span<const iovec> buffers) {
  msghdr message = {};
  // SAFETY: sendmsg and recvmsg do not change the list, whatever its type says.
  message.msg_iov = const_cast<iovec*>(buffers.data());
  message.msg_iovlen = buffers.size();
  return message;
}

IoResult from_errno(int error) {
  const bool again = error == EAGAIN || error == EWOULDBLOCK;
  return {again ? IoStatus::kWouldBlock : IoStatus::kFailed};
}

}  // namespace

Result<> check_stream_socket(FdRef fd) {
  int type = 0;
  socklen_t size = sizeof(type);
  // SAFETY: `type` is as large as `size` says.
  if (::getsockopt(fd.number(), SOL_SOCKET, SO_TYPE, &type, &size) != 0) {
    return fail_errno({Code::kInvalidArgument, "VSOCK_FD"}, errno,
                      "vsock: descriptor %d is not a socket", fd.number());
  }
  if (type != SOCK_STREAM) {
    return fail({Code::kInvalidArgument, "VSOCK_FD"},
                "vsock: descriptor %d is a socket of type %d, not a stream", fd.number(), type);
  }
  return {};
}

void HostSocket::close() {
  unwatch_writable();
  if (readable_.valid()) loop_.remove_file(std::exchange(readable_, FileSlot{}));
  fd_.reset();
}

Result<> HostSocket::watch_readable(uint32_t op) {
  CHECK(is_open() && !readable_.valid());
  readable_ = TRY(loop_.watch(client_, fd_.ref(), POLLIN | POLLRDHUP, op));
  return {};
}

Result<> HostSocket::watch_writable(uint32_t op) {
  CHECK(is_open());
  if (!writable_.valid()) writable_ = TRY(loop_.watch(client_, fd_.ref(), POLLOUT, op));
  return {};
}

void HostSocket::unwatch_writable() {
  if (writable_.valid()) loop_.remove_file(std::exchange(writable_, FileSlot{}));
}

IoResult HostSocket::receive(std::span<const iovec> buffers) {
  if (!is_open()) return {IoStatus::kFailed};
  msghdr message = message_of(buffers);
  ssize_t size;
  do {
    // SAFETY: the buffers are guest memory from GuestSpan, or our own; the kernel copies.
    // Descriptors that a peer may send along find no room and are dropped by the kernel.
    size = ::recvmsg(fd_.number(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (size < 0 && errno == EINTR);
  if (size < 0) return from_errno(errno);
  if (size == 0) return {IoStatus::kEnd};
  return {IoStatus::kMoved, static_cast<size_t>(size)};
}

IoResult HostSocket::send(std::span<const iovec> buffers) {
  if (!is_open()) return {IoStatus::kFailed};
  const msghdr message = message_of(buffers);
  ssize_t size;
  do {
    // SAFETY: as in receive().
    size = ::sendmsg(fd_.number(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (size < 0 && errno == EINTR);
  if (size < 0) return from_errno(errno);
  if (size == 0) return {IoStatus::kWouldBlock};
  return {IoStatus::kMoved, static_cast<size_t>(size)};
}

// Both may fail where the peer is gone already, which the next transfer finds out.
void HostSocket::end_sending() {
  if (is_open()) ::shutdown(fd_.number(), SHUT_WR);
}

void HostSocket::end_receiving() {
  if (is_open()) ::shutdown(fd_.number(), SHUT_RD);
}

}  // namespace mayfly::virtio::vsock
