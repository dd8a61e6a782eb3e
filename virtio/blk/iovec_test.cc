// SPDX-License-Identifier: Apache-2.0
#include "virtio/blk/iovec_sys.h"

#include <doctest/doctest.h>

#include <array>

namespace mayfly::virtio::blk {
namespace {

TEST_CASE("dropping bytes leaves exactly the bytes behind them") {
  std::array<char, 100> memory{};
  for (size_t dropped = 0; dropped <= 60; ++dropped) {
    std::array<iovec, 3> buffers{iovec{&memory[0], 10}, iovec{&memory[20], 20},
                                 iovec{&memory[60], 30}};
    const auto rest = drop_front(buffers, dropped);
    size_t left = 0;
    for (const iovec& buffer : rest) left += buffer.iov_len;
    CHECK_EQ(left, 60 - dropped);
    if (dropped < 10) CHECK_EQ(rest.front().iov_base, &memory[dropped]);
    if (dropped == 10) CHECK_EQ(rest.front().iov_base, &memory[20]);
    if (dropped == 29) CHECK_EQ(rest.front().iov_base, &memory[39]);
    if (dropped == 31) CHECK_EQ(rest.front().iov_base, &memory[61]);
  }
}

TEST_CASE("dropping more than there is leaves nothing, and empty buffers are passed over") {
  std::array<char, 8> memory{};
  std::array<iovec, 2> buffers{iovec{&memory[0], 0}, iovec{&memory[0], 8}};
  CHECK(drop_front(buffers, 9).empty());
  CHECK(drop_front({}, 0).empty());
  CHECK_EQ(drop_front(buffers, 0).size(), 1);
}

}  // namespace
}  // namespace mayfly::virtio::blk
