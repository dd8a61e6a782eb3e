// SPDX-License-Identifier: Apache-2.0
#include "base/send_descriptor_sys.h"

#include <cstring>

#include <sys/socket.h>

namespace mayfly {

ssize_t send_with_descriptor(FdRef socket, std::span<const std::byte> bytes, FdRef descriptor) {
  // SAFETY: sendmsg() does not change what it sends, whatever the type says.
  iovec piece{const_cast<std::byte*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char ancillary[CMSG_SPACE(sizeof(int))] = {};
  msghdr header = {};
  header.msg_iov = &piece;
  header.msg_iovlen = 1;
  header.msg_control = ancillary;
  header.msg_controllen = sizeof(ancillary);
  cmsghdr* part = CMSG_FIRSTHDR(&header);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(sizeof(int));
  const int number = descriptor.number();
  // SAFETY: the control space is aligned for a cmsghdr and has room for one descriptor.
  std::memcpy(CMSG_DATA(part), &number, sizeof(number));
  return ::sendmsg(socket.number(), &header, MSG_NOSIGNAL);
}

}  // namespace mayfly
