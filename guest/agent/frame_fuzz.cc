// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/frame.h"

#include "guest/agent/convert.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

// The first byte says in what pieces the rest of the stream arrives; every frame is parsed as both
// kinds of message that the host may send.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const size_t piece = data[0] == 0 ? size : data[0];
  mayfly::guest::FrameDecoder decoder;
  for (size_t at = 1; at < size;) {
    const std::span<std::byte> room = decoder.room();
    const size_t count = std::min({piece, size - at, room.size()});
    if (count == 0) std::abort();  // A drained decoder always has room.
    std::memcpy(room.data(), data + at, count);
    decoder.filled(count);
    at += count;
    for (;;) {
      const auto frame = decoder.next();
      if (!frame) return 0;
      if (!*frame) break;
      if ((*frame)->size() > mayfly::guest::kMaxFrameBytes) std::abort();
      (void)mayfly::guest::parse_exec_input(**frame);
      (void)mayfly::guest::parse_host_message(**frame);
    }
  }
  return 0;
}
