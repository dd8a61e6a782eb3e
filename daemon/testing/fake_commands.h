// SPDX-License-Identifier: Apache-2.0
//
// The commands of fake_vmm's agent: they run on this host. Any thread.
#pragma once

#include "base/fd.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

#include <unistd.h>

namespace mayfly {

template <typename Message>
bool send_frame(FdRef fd, const Message& message) {
  const std::string payload = message.SerializeAsString();
  std::string bytes;
  for (unsigned shift = 0; shift < 32; shift += 8) {
    bytes.push_back(static_cast<char>(payload.size() >> shift));
  }
  bytes += payload;
  return write_all(fd, std::as_bytes(std::span(bytes))).has_value();
}

inline bool read_exact(FdRef fd, char* out, size_t size) {
  while (size > 0) {
    const ssize_t got = ::read(fd.number(), out, size);
    if (got <= 0) return false;
    out += got;
    size -= static_cast<size_t>(got);
  }
  return true;
}

template <typename Message>
bool read_frame(FdRef fd, Message& message) {
  unsigned char header[4];
  if (!read_exact(fd, reinterpret_cast<char*>(header), 4)) return false;
  const uint32_t size =
      header[0] | header[1] << 8 | header[2] << 16 | static_cast<uint32_t>(header[3]) << 24;
  std::string payload(size, 0);
  return read_exact(fd, payload.data(), size) && message.ParseFromString(payload);
}

/// Kills those that run, each with its process group, as the end of their "guest".
void kill_commands();

/// Runs the one command that the daemon asks for on this stream, to its end.
void run_command(Fd stream);

}  // namespace mayfly
