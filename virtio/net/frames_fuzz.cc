// SPDX-License-Identifier: Apache-2.0
//
// A stream of anything: the first byte says in what pieces it arrives.
#include "virtio/net/frames.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace {

void check(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace mayfly::virtio::net;
  if (size == 0) return 0;
  const size_t piece = data[0] == 0 ? size : data[0];
  FrameReader reader;
  size_t taken = 0;
  for (size_t at = 1; at < size;) {
    const auto room = reader.room();
    const size_t count = std::min({piece, size - at, room.size()});
    check(count != 0);
    std::memcpy(room.data(), data + at, count);
    reader.filled(count);
    at += count;
    for (;;) {
      const auto frame = reader.next();
      if (!frame) return 0;
      if (!*frame) break;
      // Whole, in its place, and no longer than any frame.
      check(!(*frame)->empty() && (*frame)->size() <= kMaxFrameBytes);
      taken += kFrameLengthBytes;
      check(std::memcmp((*frame)->data(), data + 1 + taken, (*frame)->size()) == 0);
      taken += (*frame)->size();
      check(taken + 1 <= at);
    }
  }
  return 0;
}
