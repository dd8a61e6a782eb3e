// SPDX-License-Identifier: Apache-2.0
//
// A VM's memory out of a program of the caller's, a handler, over a socket that it listens on. The
// protocol: docs/lazy-memory.md. A handler is trusted with the VM whose memory it provides, and
// with nothing else: what it says is bounded, and its end or its lie ends that VM.
#pragma once

#include "base/error.h"
#include "daemon/memory_source.h"
#include "daemon/reactor.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace mayfly::daemon {

inline constexpr char kHandlerMagic[8] = {'M', 'A', 'Y', 'F', 'L', 'Y', 'M', 'S'};
inline constexpr uint32_t kHandlerVersion = 1;
inline constexpr size_t kHandlerNameBytes = 64;
inline constexpr size_t kMaxHandlerText = 512;

/// What the handler is told, with the userfaultfd and the memfd, in this order.
struct HandlerHello {
  char magic[8];
  uint32_t version;
  uint32_t region_count;
  uint64_t memory_bytes;
  uint32_t page_bytes;
  uint32_t reserved;
  /// The VM's id, zeroes behind it.
  char vm_id[kHandlerNameBytes];
  // Then the regions.
};
static_assert(sizeof(HandlerHello) == 96);

struct HandlerRegion {
  uint64_t guest_address;
  uint64_t size_bytes;
  uint64_t file_offset;
  uint64_t address;
};
static_assert(sizeof(HandlerRegion) == 32);

enum class HandlerWord : uint32_t { kReady = 1, kComplete = 2, kFailed = 3 };

/// What the handler says; kFailed is followed by text.
struct HandlerSays {
  HandlerWord word = HandlerWord::kFailed;
  std::string text;
};

/// Hostile bytes: one packet. kUnavailable HANDLER_PROTOCOL. Pure.
Result<HandlerSays> parse_handler(std::span<const std::byte> packet);
std::string make_handler_hello(const std::string& vm_id, const MissingMemory& memory);

/// `path`: absolute, of a SOCK_SEQPACKET socket. Nothing is connected before begin(), which waits
/// for the handler to be ready.
Result<std::unique_ptr<MemorySource>> handler_source(Reactor& reactor, std::string path,
                                                     std::string vm_id);

}  // namespace mayfly::daemon
