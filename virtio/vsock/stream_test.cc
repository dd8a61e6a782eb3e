// SPDX-License-Identifier: Apache-2.0
// Data through the device with real sockets, a real loop and both sides as slow or as rude as they
// can be.
#include "virtio/vsock/testing/guest_side.h"
#include "virtio/vsock/vsock.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <random>
#include <string>

#include <sys/socket.h>
#include <unistd.h>

namespace mayfly::virtio::vsock {
namespace {

using testing::GuestSide;
using testing::Packet;

constexpr uint32_t kHostPort = 1024;

/// An endless stream of bytes, the same for each seed.
char stream_byte(uint64_t seed, uint64_t at) {
  uint64_t x = (at / 8 + 1) * 0x9e37'79b9'7f4a'7c15 + seed;
  x ^= x >> 31;
  x *= 0xbf58'476d'1ce4'e5b9;
  return static_cast<char>(x >> (8 * (at % 8)));
}
std::string stream(uint64_t seed, uint64_t from, size_t size) {
  std::string out(size, '\0');
  for (size_t i = 0; i < size; ++i) out[i] = stream_byte(seed, from + i);
  return out;
}

/// One connection, seen from both its ends; counts what it has sent and got, and checks every byte.
class Pair {
 public:
  Pair(GuestSide& guest, uint32_t port) : guest_(guest), port_(port), seed_(port) {
    host_ = guest.open(port, kHostPort);
    device_buffer_ = kSendBufferSize;
  }

  uint32_t port() const { return port_; }
  Fd& host() { return host_; }

  /// As much of `size` as the device gave credit for.
  void guest_send(size_t size) {
    const uint32_t credit = device_buffer_ - (static_cast<uint32_t>(guest_sent) - device_taken_);
    size = std::min<size_t>({size, credit, 60'000});
    if (size == 0 || guest_.tx_under_way() > 30) return;
    guest_.send(stamped(kOpRw), stream(seed_, guest_sent, size));
    guest_sent += size;
  }
  void host_read(size_t size) {
    std::string in(size, '\0');
    const ssize_t got = ::recv(host_.number(), in.data(), size, MSG_DONTWAIT);
    if (got <= 0) return;
    in.resize(static_cast<size_t>(got));
    REQUIRE(in == stream(seed_, host_got, in.size()));
    host_got += in.size();
  }
  void host_send(size_t size) {
    const std::string out = stream(~seed_, host_sent, size);
    const ssize_t done = ::send(host_.number(), out.data(), size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (done > 0) host_sent += static_cast<uint64_t>(done);
  }
  /// The application in the guest takes `size` of what has arrived, and says so.
  void guest_read(size_t size) {
    size = std::min<size_t>(size, guest_got - guest_taken);
    guest_taken += size;
    if (size > 0) guest_.send(stamped(kOpCreditUpdate));
  }
  void receive(const Packet& packet) {
    if (packet.header.op == kOpRst) {
      reset = true;
      return;
    }
    device_taken_ = packet.header.fwd_cnt;
    device_buffer_ = packet.header.buf_alloc;
    REQUIRE_LE(static_cast<uint32_t>(guest_sent) - device_taken_, device_buffer_);
    if (packet.header.op == kOpCreditRequest) ++credit_requests;
    if (packet.header.op == kOpCreditRequest) guest_.send(stamped(kOpCreditUpdate));
    if (packet.header.op == kOpShutdown) shutdown = packet.header.flags;
    if (packet.header.op != kOpRw) return;
    REQUIRE(packet.payload == stream(~seed_, guest_got, packet.payload.size()));
    guest_got += packet.payload.size();
    REQUIRE_LE(guest_got - guest_taken, guest_buffer);
  }
  Header stamped(uint16_t op) {
    Header header = guest_.header(op, port_, kHostPort);
    header.buf_alloc = guest_buffer;
    header.fwd_cnt = static_cast<uint32_t>(guest_taken);
    return header;
  }

  uint32_t guest_buffer = 256 * 1024;
  uint64_t guest_sent = 0, host_got = 0, host_sent = 0, guest_got = 0, guest_taken = 0;
  uint32_t shutdown = 0;
  int credit_requests = 0;
  bool reset = false;

 private:
  GuestSide& guest_;
  const uint32_t port_;
  const uint64_t seed_;
  Fd host_;
  uint32_t device_buffer_ = 0;
  uint32_t device_taken_ = 0;
};

void deliver(GuestSide& guest, std::vector<std::unique_ptr<Pair>>& pairs) {
  guest.turn();
  while (const auto packet = guest.next()) {
    const auto pair = std::ranges::find(pairs, uint32_t{packet->header.dst_port},
                                        [](const auto& p) { return p->port(); });
    REQUIRE(pair != pairs.end());
    (*pair)->receive(*packet);
  }
}

struct Speeds {
  size_t guest_send, host_read, host_send, guest_read;
};

/// Sends until the host's socket, which nobody reads, and then the device's buffer are full.
void fill(GuestSide& guest, Pair& pair) {
  uint64_t before = ~uint64_t{0};
  while (pair.guest_sent != before) {
    before = pair.guest_sent;
    pair.guest_send(10'000);
    guest.send(pair.stamped(kOpCreditRequest));
    while (const auto packet = guest.next()) pair.receive(*packet);
  }
}

void run_streams(const GuestSide::Options& options, size_t count, uint64_t bytes, Speeds speeds,
                 uint32_t guest_buffer = 256 * 1024) {
  GuestSide guest(options);
  std::vector<std::unique_ptr<Pair>> pairs;
  for (uint32_t i = 0; i < count; ++i) {
    pairs.push_back(std::make_unique<Pair>(guest, 100 + i));
    pairs.back()->guest_buffer = guest_buffer;
    guest.send(pairs.back()->stamped(kOpCreditUpdate));
  }
  guest.settle();
  std::mt19937 random(11);
  const auto up_to = [&](size_t limit) { return 1 + random() % limit; };
  bool all_done = false;
  for (int step = 0; !all_done; ++step) {
    REQUIRE_LT(step, 200'000);
    all_done = true;
    for (const auto& pair : pairs) {
      if (pair->guest_sent < bytes) pair->guest_send(up_to(speeds.guest_send));
      if (pair->host_sent < bytes) pair->host_send(up_to(speeds.host_send));
      pair->host_read(up_to(speeds.host_read));
      pair->guest_read(up_to(speeds.guest_read));
      all_done = all_done && pair->host_got >= bytes && pair->guest_got >= bytes &&
                 pair->host_got == pair->guest_sent && pair->guest_got == pair->host_sent;
    }
    deliver(guest, pairs);
  }
  for (const auto& pair : pairs) CHECK_FALSE(pair->reset);
}

TEST_CASE("both streams arrive whole with fast readers") {
  run_streams({}, 1, 8 << 20, {60'000, 1 << 20, 200'000, 1 << 20});
}

TEST_CASE("both streams arrive whole with slow readers") {
  run_streams({}, 1, 2 << 20, {60'000, 3000, 200'000, 3000});
}

TEST_CASE("both streams arrive whole through a guest buffer of a few bytes") {
  run_streams({}, 1, 30'000, {60'000, 100'000, 200'000, 5000}, 100);
}

TEST_CASE("streams share few receive buffers, without event_idx as with it") {
  run_streams({.rx_buffers = 3, .rx_bytes = 1000}, 7, 200'000, {9000, 8000, 50'000, 100'000});
  run_streams({.rx_buffers = 3, .rx_bytes = 1000, .event_idx = false}, 7, 200'000,
              {9000, 8000, 50'000, 100'000});
}

TEST_CASE("readable connections take turns") {
  GuestSide guest({.rx_buffers = 4});
  guest.hoard = true;
  std::vector<std::unique_ptr<Pair>> pairs;
  for (uint32_t i = 0; i < 4; ++i) pairs.push_back(std::make_unique<Pair>(guest, 100 + i));
  for (const auto& pair : pairs) pair->host_send(50'000);
  // All of them wait for a buffer.
  CHECK_FALSE(guest.next().has_value());
  guest.give_buffers(40);
  for (int round = 0; round < 10; ++round) {
    std::vector<uint32_t> turn;
    for (int i = 0; i < 4; ++i) turn.push_back(guest.next()->header.dst_port);
    std::ranges::sort(turn);
    CHECK((turn == std::vector<uint32_t>{100, 101, 102, 103}));
  }
}

TEST_CASE("without credit nothing is sent but one request for it") {
  GuestSide guest;
  Pair pair(guest, 100);
  pair.guest_buffer = 1000;
  guest.send(pair.stamped(kOpCreditUpdate));
  guest.settle();
  pair.host_send(5000);
  auto packet = guest.next();
  REQUIRE(packet.has_value());
  CHECK_EQ(packet->payload.size(), 1000);
  CHECK_EQ(guest.next_op(), kOpCreditRequest);
  CHECK_FALSE(guest.next().has_value());
  // An answer that gives nothing is not asked again for.
  guest.send(pair.stamped(kOpCreditUpdate));
  CHECK_FALSE(guest.next().has_value());
  pair.guest_taken = 400;
  guest.send(pair.stamped(kOpCreditUpdate));
  packet = guest.next();
  REQUIRE(packet.has_value());
  CHECK_EQ(packet->payload.size(), 400);
  CHECK_EQ(guest.next_op(), kOpCreditRequest);
  CHECK_FALSE(guest.next().has_value());
}

TEST_CASE("a guest gets exactly the credit that was promised, and RST for a byte more") {
  GuestSide guest;
  Pair pair(guest, 100);
  fill(guest, pair);
  CHECK_GE(pair.guest_sent, kSendBufferSize);
  guest.send(pair.stamped(kOpCreditRequest));
  auto packet = guest.next();
  REQUIRE(packet.has_value());
  CHECK_EQ(uint16_t{packet->header.op}, kOpCreditUpdate);
  CHECK_EQ(static_cast<uint32_t>(pair.guest_sent) - packet->header.fwd_cnt, kSendBufferSize);
  guest.send(pair.stamped(kOpRw), "!");
  CHECK_EQ(guest.next_op(), kOpRst);
}

TEST_CASE("a guest that claims to have read what was never sent gets RST") {
  GuestSide guest;
  Pair pair(guest, 100);
  pair.guest_taken = 1;
  guest.send(pair.stamped(kOpCreditUpdate));
  CHECK_EQ(guest.next_op(), kOpRst);
}

TEST_CASE("each half closes by itself") {
  GuestSide guest;
  Pair pair(guest, 100);
  // The guest ends its half; the host still sends.
  Header shutdown = pair.stamped(kOpShutdown);
  shutdown.flags = kShutdownSend;
  pair.guest_send(500);
  guest.send(shutdown);
  guest.settle();
  pair.host_read(1000);
  CHECK_EQ(pair.host_got, pair.guest_sent);
  char byte;
  CHECK_EQ(::recv(pair.host().number(), &byte, 1, MSG_DONTWAIT), 0);
  pair.host_send(700);
  pair.receive(*guest.next());
  CHECK_EQ(pair.guest_got, 700);
  // Then the host ends its own.
  pair.host().reset();
  while (const auto packet = guest.next()) pair.receive(*packet);
  CHECK_NE(pair.shutdown & kShutdownSend, 0);
  shutdown.flags = kShutdownBoth;
  guest.send(shutdown);
  CHECK_EQ(guest.next_op(), kOpRst);
  CHECK_EQ(guest.device().connection_count(), 0);
}

TEST_CASE("the host ends its half, and the guest sends on") {
  GuestSide guest;
  Pair pair(guest, 100);
  pair.host_send(300);
  REQUIRE_EQ(::shutdown(pair.host().number(), SHUT_WR), 0);
  while (const auto packet = guest.next()) pair.receive(*packet);
  CHECK_EQ(pair.guest_got, 300);
  CHECK_EQ(pair.shutdown, kShutdownSend);
  pair.guest_send(400);
  guest.settle();
  pair.host_read(1000);
  CHECK_EQ(pair.host_got, pair.guest_sent);
  // Now it goes for good.
  pair.host().reset();
  while (const auto packet = guest.next()) pair.receive(*packet);
  CHECK_EQ(pair.shutdown, kShutdownBoth);
  guest.send(pair.stamped(kOpRst));
  guest.settle();
  CHECK_EQ(guest.device().connection_count(), 0);
}

TEST_CASE("a host that vanishes: the guest reads the rest, then both halves are shut") {
  GuestSide guest;
  Pair pair(guest, 100);
  pair.host_send(9000);
  pair.host().reset();
  while (const auto packet = guest.next()) pair.receive(*packet);
  CHECK_EQ(pair.guest_got, 9000);
  CHECK_EQ(pair.shutdown, kShutdownBoth);
  CHECK_FALSE(pair.reset);
  // What the guest still sends goes nowhere, and its credit comes back.
  for (int i = 0; i < 10; ++i) {
    pair.guest_send(60'000);
    while (const auto packet = guest.next()) pair.receive(*packet);
  }
  CHECK_GT(pair.guest_sent, 2 * kSendBufferSize);
  Header shutdown = pair.stamped(kOpShutdown);
  shutdown.flags = kShutdownBoth;
  guest.send(shutdown);
  CHECK_EQ(guest.next_op(), kOpRst);
  CHECK_EQ(guest.device().connection_count(), 0);
}

TEST_CASE("a host that vanishes with unread data resets the guest's end") {
  GuestSide guest;
  Pair pair(guest, 100);
  pair.guest_send(1000);
  guest.settle();
  pair.host().reset();
  while (const auto packet = guest.next()) pair.receive(*packet);
  CHECK(pair.reset);
  CHECK_EQ(guest.device().connection_count(), 0);
}

TEST_CASE("writing to a peer that reads no more is no signal, and shuts that half") {
  REQUIRE((std::signal(SIGPIPE, SIG_DFL) == SIG_DFL));
  GuestSide guest;
  Pair pair(guest, 100);
  REQUIRE_EQ(::shutdown(pair.host().number(), SHUT_RD), 0);
  pair.guest_send(1000);
  while (const auto packet = guest.next()) pair.receive(*packet);
  CHECK_EQ(pair.shutdown, kShutdownReceive);
  pair.host_send(100);
  pair.receive(*guest.next());
  CHECK_EQ(pair.guest_got, 100);
  pair.host().reset();
  while (const auto packet = guest.next()) pair.receive(*packet);
  CHECK_EQ(pair.shutdown, kShutdownBoth);
}

TEST_CASE("what the guest sent before it left still reaches a slow host") {
  for (const bool by_reset_of_device : {false, true}) {
    GuestSide guest;
    Pair pair(guest, 100);
    fill(guest, pair);
    if (by_reset_of_device) {
      guest.reset();
      guest.activate();
    } else {
      Header shutdown = pair.stamped(kOpShutdown);
      shutdown.flags = kShutdownBoth;
      guest.send(shutdown);
      // It is not over as long as data waits.
      CHECK_FALSE(guest.next().has_value());
      guest.send(pair.stamped(kOpRst));
    }
    guest.settle();
    CHECK_EQ(guest.device().connection_count(), 1);
    CHECK_EQ(guest.device().unsent_bytes(), kSendBufferSize);
    for (int i = 0; i < 1000 && pair.host_got < pair.guest_sent; ++i) {
      pair.host_read(5000);
      guest.settle();
    }
    CHECK_EQ(pair.host_got, pair.guest_sent);
    CHECK_EQ(guest.device().unsent_bytes(), 0);
    char byte;
    CHECK_EQ(::recv(pair.host().number(), &byte, 1, MSG_DONTWAIT), 0);
    CHECK_EQ(guest.device().connection_count(), 0);
    // Its ports are free again.
    Pair again(guest, 100);
    again.guest_send(10);
    guest.settle();
    again.host_read(10);
    CHECK_GT(again.host_got, 0);
  }
}

TEST_CASE("a guest that closes at once gets its RST when all is written") {
  GuestSide guest;
  Pair pair(guest, 100);
  fill(guest, pair);
  Header shutdown = pair.stamped(kOpShutdown);
  shutdown.flags = kShutdownBoth;
  guest.send(shutdown);
  while (pair.host_got < pair.guest_sent) {
    pair.host_read(50'000);
    while (const auto packet = guest.next()) pair.receive(*packet);
  }
  CHECK(pair.reset);
  CHECK_EQ(guest.device().connection_count(), 0);
}

TEST_CASE("a host that dies while data waits for it ends the connection, and nothing lingers") {
  for (const bool guest_left : {false, true}) {
    GuestSide guest;
    Pair pair(guest, 100);
    fill(guest, pair);
    if (guest_left) guest.send(pair.stamped(kOpRst));
    guest.settle();
    pair.host().reset();
    while (const auto packet = guest.next()) pair.receive(*packet);
    CHECK_EQ(pair.reset, !guest_left);
    CHECK_EQ(guest.device().connection_count(), 0);
  }
}

TEST_CASE("a connection that cannot be watched for room is reset, not stalled") {
  // The transport's three events, the device's own, and the connection.
  GuestSide guest({.files = 5});
  Pair pair(guest, 100);
  fill(guest, pair);
  CHECK(pair.reset);
  CHECK_EQ(guest.device().connection_count(), 0);
}

TEST_CASE("a connection that has ended for the host answers until the guest ends it") {
  GuestSide guest;
  Pair pair(guest, 100);
  pair.host().reset();
  while (const auto packet = guest.next()) pair.receive(*packet);
  CHECK_EQ(pair.shutdown, kShutdownBoth);
  guest.send(pair.stamped(kOpCreditRequest));
  CHECK_EQ(guest.next_op(), kOpCreditUpdate);
  guest.send(pair.stamped(kOpCreditUpdate));
  CHECK_FALSE(guest.next().has_value());
  guest.send(pair.stamped(kOpResponse));
  CHECK_EQ(guest.next_op(), kOpRst);
  CHECK_EQ(guest.device().connection_count(), 0);
}

TEST_CASE("while the queues are frozen nothing moves, and afterwards nothing is missing") {
  GuestSide guest;
  Pair pair(guest, 100);
  for (Queue& queue : guest.harness().queues()) queue.set_frozen(true);
  pair.host_send(5000);
  pair.guest_send(6000);
  CHECK_FALSE(guest.next().has_value());
  pair.host_read(100);
  CHECK_EQ(pair.host_got, 0);
  for (Queue& queue : guest.harness().queues()) queue.set_frozen(false);
  guest.harness().notify(kTxQueue);
  while (const auto packet = guest.next()) pair.receive(*packet);
  pair.host_read(100'000);
  CHECK_EQ(pair.host_got, pair.guest_sent);
  CHECK_EQ(pair.guest_got, pair.host_sent);
}

TEST_CASE("a thousand connections come and go, and nothing is left of them") {
  GuestSide guest;
  for (uint32_t i = 0; i < 1000; ++i) {
    Pair pair(guest, i);
    pair.guest_send(1 + i);
    pair.host_send(1 + i);
    guest.settle();
    pair.host_read(100'000);
    while (const auto packet = guest.next()) pair.receive(*packet);
    REQUIRE_EQ(pair.host_got, pair.guest_sent);
    REQUIRE_EQ(pair.guest_got, pair.host_sent);
    if (i % 2 == 0) pair.host().reset();
    Header shutdown = pair.stamped(kOpShutdown);
    shutdown.flags = kShutdownBoth;
    guest.send(shutdown);
    while (const auto packet = guest.next()) pair.receive(*packet);
    REQUIRE(pair.reset);
    REQUIRE_EQ(guest.device().connection_count(), 0);
  }
}

}  // namespace
}  // namespace mayfly::virtio::vsock
