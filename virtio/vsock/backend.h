// SPDX-License-Identifier: Apache-2.0
//
// The host's side of a connection: a connected stream socket of any family that was given to us.
// Nothing here blocks, connects or opens, and no write raises SIGPIPE.
//
// Threads: the loop thread under the device lock.
#pragma once

#include "base/error.h"
#include "base/event/loop.h"
#include "base/fd.h"

#include <cstddef>
#include <cstdint>
#include <span>

#include <sys/uio.h>

namespace mayfly::virtio::vsock {

enum class IoStatus {
  kMoved,       ///< `bytes` of them, at least 1
  kWouldBlock,  ///< none now; a poll event tells when
  kEnd,         ///< the peer sends no more (receive only)
  kFailed,      ///< the peer is gone
};

struct IoResult {
  IoStatus status;
  size_t bytes = 0;
};

/// kInvalidArgument where `fd` is not a stream socket.
Result<> check_stream_socket(FdRef fd);

class HostSocket {
 public:
  /// `loop` outlives the socket; `client` receives its poll events.
  HostSocket(Loop& loop, ClientId client, Fd fd)
      : loop_(loop), client_(client), fd_(std::move(fd)) {}
  ~HostSocket() { close(); }
  HostSocket(const HostSocket&) = delete;
  HostSocket& operator=(const HostSocket&) = delete;

  bool is_open() const { return fd_.valid(); }
  /// Closes it and ends its polls.
  void close();

  /// From now on `op` completes when there is something to receive, an end, or an error. Takes a
  /// file of the loop.
  Result<> watch_readable(uint32_t op);
  /// From now on `op` completes when there is room to send. Takes a file of the loop.
  Result<> watch_writable(uint32_t op);
  void unwatch_writable();

  IoResult receive(std::span<const iovec> buffers);
  IoResult send(std::span<const iovec> buffers);
  /// The peer reads an end after what was sent so far.
  void end_sending();
  /// The peer's writes fail from now on.
  void end_receiving();

 private:
  Loop& loop_;
  const ClientId client_;
  Fd fd_;
  // Two registrations of one descriptor: a file has one poll, and the second one is rarely there.
  FileSlot readable_;
  FileSlot writable_;
};

}  // namespace mayfly::virtio::vsock
