// SPDX-License-Identifier: Apache-2.0
#include "daemon/unix_socket_sys.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include <sys/socket.h>
#include <sys/un.h>

namespace mayfly::daemon {

namespace {

constexpr size_t kMaxFds = 64;

Result<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() > kMaxSocketPathBytes) {
    return fail({Code::kInvalidArgument, "SOCKET_PATH"},
                "socket path %s: %zu bytes are not within 1 to %zu", path.c_str(), path.size(),
                kMaxSocketPathBytes);
  }
  std::copy(path.begin(), path.end(), address.sun_path);
  return address;
}

// SAFETY: the socket calls take every address family as sockaddr; the size passed beside it is the
// real one.
const sockaddr* as_sockaddr(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

}  // namespace

Result<> check_socket_path(const char* what, const std::string& path) {
  if (path.empty() || path[0] != '/') {
    return fail({Code::kInvalidArgument, "SOCKET_PATH"}, "%s: \"%s\" is not an absolute path", what,
                path.c_str());
  }
  if (path.size() > kMaxSocketPathBytes) {
    return fail({Code::kInvalidArgument, "SOCKET_PATH_TOO_LONG"},
                "%s: %s has %zu bytes; a Unix socket's path has at most %zu", what, path.c_str(),
                path.size(), kMaxSocketPathBytes);
  }
  return {};
}

Result<Fd> listen_unix(const std::string& path, int type, int backlog) {
  const sockaddr_un address = TRY(address_of(path));
  Fd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail_errno({Code::kResourceExhausted, "SOCKET"}, errno, "socket");
  if (::bind(fd.number(), as_sockaddr(address), sizeof(address)) != 0) {
    const Code code = errno == EADDRINUSE ? Code::kAlreadyExists : Code::kFailedPrecondition;
    return fail_errno({code, "SOCKET_BIND"}, errno, "bind %s", path.c_str());
  }
  if (::listen(fd.number(), backlog) != 0) {
    return fail_errno({Code::kResourceExhausted, "SOCKET_LISTEN"}, errno, "listen on %s",
                      path.c_str());
  }
  return fd;
}

Result<Fd> connect_unix(const std::string& path, int type) {
  const sockaddr_un address = TRY(address_of(path));
  Fd fd(::socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail_errno({Code::kResourceExhausted, "SOCKET"}, errno, "socket");
  if (::connect(fd.number(), as_sockaddr(address), sizeof(address)) != 0) {
    return fail_errno({Code::kUnavailable, "SOCKET_CONNECT"}, errno, "connect to %s", path.c_str());
  }
  return fd;
}

Result<> send_packet(FdRef socket, std::span<const std::byte> bytes, std::span<const FdRef> fds) {
  if (fds.size() > kMaxFds) {
    return fail({Code::kInternal, "SEND_FDS"}, "%zu descriptors are above the limit of %zu",
                fds.size(), kMaxFds);
  }
  // SAFETY: sendmsg only reads from the buffer that iov_base points to.
  iovec part = {.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxFds * sizeof(int))> control = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.data();
    message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    for (size_t i = 0; i < fds.size(); ++i) {
      const int number = fds[i].number();
      // SAFETY: control has room for kMaxFds numbers, and i is below that.
      std::memcpy(CMSG_DATA(header) + i * sizeof(int), &number, sizeof(int));
    }
  }
  for (;;) {
    if (::sendmsg(socket.number(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return {};
    if (errno == EINTR) continue;
    if (errno == EAGAIN) {
      return fail({Code::kResourceExhausted, "MONITOR_STUCK"},
                  "the monitor does not read its control socket");
    }
    return fail_errno({Code::kUnavailable, "MONITOR_GONE"}, errno, "send to the monitor");
  }
}

Result<std::optional<size_t>> receive_packet(FdRef socket, std::span<std::byte> buffer) {
  iovec part = {.iov_base = buffer.data(), .iov_len = buffer.size()};
  msghdr message = {};  // No room for control data: the kernel drops descriptors that came along.
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  for (;;) {
    const ssize_t size = ::recvmsg(socket.number(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size >= 0) {
      if ((message.msg_flags & MSG_TRUNC) != 0) {
        return fail({Code::kUnavailable, "MONITOR_REPLY"},
                    "the monitor sent a packet above %zu bytes", buffer.size());
      }
      return static_cast<size_t>(size);
    }
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return std::nullopt;
    return fail_errno({Code::kUnavailable, "MONITOR_GONE"}, errno, "receive from the monitor");
  }
}

Result<Fd> receive_descriptor(FdRef socket) {
  char byte = 0;
  iovec part = {.iov_base = &byte, .iov_len = sizeof(byte)};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int))> control = {};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t size = ::recvmsg(socket.number(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  // Room for one: the kernel drops what else came.
  const cmsghdr* header = size < 0 ? nullptr : CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS ||
      header->cmsg_len != CMSG_LEN(sizeof(int))) {
    return fail({Code::kUnavailable, "DESCRIPTOR_MISSING"},
                "no descriptor came from the other end");
  }
  int number = -1;
  // SAFETY: the header says that one descriptor follows it.
  std::memcpy(&number, CMSG_DATA(header), sizeof(number));
  Fd descriptor(number);
  if (size == 1 && (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) == 0) return descriptor;
  return fail({Code::kUnavailable, "DESCRIPTOR_MISSING"},
              "more than one byte and one descriptor came from the other end");
}

Result<uid_t> peer_uid(FdRef socket) {
  ucred credentials = {};
  socklen_t size = sizeof(credentials);
  if (::getsockopt(socket.number(), SOL_SOCKET, SO_PEERCRED, &credentials, &size) != 0) {
    return fail_errno({Code::kInternal, "PEERCRED"}, errno, "SO_PEERCRED");
  }
  return credentials.uid;
}

}  // namespace mayfly::daemon
