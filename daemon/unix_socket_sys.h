// SPDX-License-Identifier: Apache-2.0
//
// Unix sockets: the calls that need pointer casts. Descriptors made here are close-on-exec. Any
// thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include <sys/types.h>

namespace mayfly::daemon {

/// The longest path that fits a Unix socket's address.
inline constexpr size_t kMaxSocketPathBytes = 107;

/// Refuses a path that is not absolute or does not fit; `what` names the flag or field.
Result<> check_socket_path(const char* what, const std::string& path);

/// Binds `path` (checked by the caller) and listens, `type` being SOCK_STREAM or SOCK_SEQPACKET
/// with flags.
Result<Fd> listen_unix(const std::string& path, int type, int backlog);

/// Connects; a refusal keeps its errno in the Error.
Result<Fd> connect_unix(const std::string& path, int type);

/// One packet with descriptors, never blocking: EAGAIN is kResourceExhausted, the peer does not
/// read.
Result<> send_packet(FdRef socket, std::span<const std::byte> bytes, std::span<const FdRef> fds);

/// One packet into `buffer`, never blocking. Nothing: none is there. 0: the peer has closed.
/// Descriptors that come with it are closed; a packet larger than the buffer is an error.
Result<std::optional<size_t>> receive_packet(FdRef socket, std::span<std::byte> buffer);

/// The one descriptor of a packet of one byte that is there; never blocks. Hostile: whatever it is,
/// it is one.
Result<Fd> receive_descriptor(FdRef socket);

/// The user id of the process that connected the other end.
Result<uid_t> peer_uid(FdRef socket);

}  // namespace mayfly::daemon
