// SPDX-License-Identifier: Apache-2.0
#include "virtio/vsock/connection.h"

#include <doctest/doctest.h>

namespace mayfly::virtio::vsock {
namespace {

struct Fixture {
  std::unique_ptr<Loop> loop = *Loop::create({.ring_entries = 4, .files = 1, .clients = 1});
  Connection connection{0, {.guest = 1, .host = 2}, *loop, ClientId{}, Fd()};
};

TEST_CASE("credit is what the guest holds less what is under way, also where the counters wrap") {
  Fixture fixture;
  Connection& c = fixture.connection;
  CHECK_EQ(c.credit(), 0);
  for (const uint32_t start : {0u, 0xffff'ff00u}) {
    c.sent = c.guest_forwarded = start;
    REQUIRE(c.take_credit(1000, start));
    CHECK_EQ(c.credit(), 1000);
    c.sent += 600;
    CHECK_EQ(c.credit(), 400);
    REQUIRE(c.take_credit(1000, start + 500));
    CHECK_EQ(c.credit(), 900);
    // A smaller buffer than what is under way leaves none.
    REQUIRE(c.take_credit(50, start + 500));
    CHECK_EQ(c.credit(), 0);
    REQUIRE(c.take_credit(0xffff'ffff, start + 600));
    CHECK_EQ(c.credit(), 0xffff'ffff);
  }
}

TEST_CASE("a count from before is passed over, one ahead of all that was sent is refused") {
  Fixture fixture;
  Connection& c = fixture.connection;
  c.sent = 500;
  REQUIRE(c.take_credit(1000, 400));
  REQUIRE(c.take_credit(1000, 300));
  CHECK_EQ(c.guest_forwarded, 400);
  CHECK_FALSE(c.take_credit(1000, 501));
  CHECK_EQ(c.guest_forwarded, 400);
  REQUIRE(c.take_credit(1000, 500));
  CHECK_EQ(c.credit(), 1000);
}

TEST_CASE("credit is owed once half the buffer has been taken, and told by any packet") {
  Fixture fixture;
  Connection& c = fixture.connection;
  c.forwarded = c.forwarded_told = 0xffff'fff0;
  c.forwarded += kSendBufferSize / 2 - 1;
  CHECK_FALSE(c.owes_credit());
  ++c.forwarded;
  CHECK(c.owes_credit());
  c.pending = pending::kCreditUpdate | pending::kShutdown;
  const Header header = c.header(9, kOpRw, 5);
  CHECK_EQ(uint32_t{header.fwd_cnt}, c.forwarded);
  CHECK_EQ(uint32_t{header.buf_alloc}, kSendBufferSize);
  CHECK_EQ(uint64_t{header.dst_cid}, 9);
  CHECK_EQ(uint32_t{header.src_port}, 2);
  CHECK_EQ(c.pending, pending::kShutdown);
  CHECK_FALSE(c.owes_credit());
}

}  // namespace
}  // namespace mayfly::virtio::vsock
