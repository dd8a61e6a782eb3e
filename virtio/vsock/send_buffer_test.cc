// SPDX-License-Identifier: Apache-2.0
#include "virtio/vsock/send_buffer.h"

#include "virtio/queue/testing/fake_driver.h"

#include <doctest/doctest.h>

#include <cstring>
#include <string>

namespace mayfly::virtio::vsock {
namespace {

TEST_CASE("bytes leave in the order in which they came, around the end of the ring and back") {
  const GuestMemory memory = virtio::testing::make_memory(1024 * 1024);
  const GuestSpan source = *memory.view({Gpa{0}, 512 * 1024});
  for (uint64_t i = 0; i < source.size(); i += 4) source.store(i, static_cast<uint32_t>(i * 77));
  SendBuffer buffer;
  uint64_t written = 0;
  uint64_t read = 0;
  for (uint32_t step = 1; step < 60; ++step) {
    const uint32_t size = std::min<uint32_t>(step * 4096 % 65536 + step, buffer.room());
    if (written + size > source.size()) break;
    const std::array<GuestSpan, 2> spans{source.subspan(written, size / 3),
                                         source.subspan(written + size / 3, size - size / 3)};
    ChainReader reader(spans);
    buffer.append(reader, size);
    written += size;
    const uint32_t taken = buffer.size() * 2 / 3;
    std::array<iovec, 2> pieces;
    std::string out;
    for (const iovec& piece : buffer.front(pieces)) {
      out.append(static_cast<const char*>(piece.iov_base), piece.iov_len);
    }
    REQUIRE_EQ(out.size(), buffer.size());
    std::string expected(taken, '\0');
    source.read(read, std::as_writable_bytes(std::span(expected)));
    REQUIRE(out.substr(0, taken) == expected);
    buffer.consume(taken);
    read += taken;
    CHECK_EQ(buffer.size(), written - read);
  }
  CHECK_GT(written, 2 * kSendBufferSize);
  buffer.clear();
  CHECK(buffer.empty());
  CHECK_EQ(buffer.room(), kSendBufferSize);
  std::array<iovec, 2> pieces;
  CHECK(buffer.front(pieces).empty());
}

}  // namespace
}  // namespace mayfly::virtio::vsock
