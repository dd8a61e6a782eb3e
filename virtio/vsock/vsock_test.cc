// SPDX-License-Identifier: Apache-2.0
#include "virtio/vsock/vsock.h"

#include "virtio/vsock/testing/guest_side.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <string>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace mayfly::virtio::vsock {
namespace {

using testing::GuestSide;
using testing::Packet;

std::pair<Fd, Fd> make_pair() { return *Fd::socket_pair(SOCK_STREAM | SOCK_NONBLOCK); }

std::string read_all(const Fd& fd) {
  std::string text(65536, '\0');
  const ssize_t size = ::read(fd.number(), text.data(), text.size());
  text.resize(size > 0 ? static_cast<size_t>(size) : 0);
  return text;
}
/// 0: end of file; -1: an error that is not EAGAIN; 1: neither.
int end_of(const Fd& fd) {
  char byte;
  const ssize_t size = ::recv(fd.number(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
  if (size == 0) return 0;
  return size < 0 && errno != EAGAIN ? -1 : 1;
}
void write_text(const Fd& fd, std::string_view text) {
  REQUIRE_EQ(::write(fd.number(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

TEST_CASE("the CID must be a guest's, and configuration space tells it") {
  auto loop = *Loop::create({.clients = 1});
  for (const uint64_t cid : {0ull, 1ull, 2ull, 0xffffffffull, 0x100000003ull, ~0ull}) {
    CHECK_FALSE(Vsock::create(*loop, cid).has_value());
  }
  CHECK((*Vsock::create(*loop, 3)).get() != nullptr);
  const auto vsock = *Vsock::create(*loop, 0xfffffffe);
  uint64_t cid = 0;
  vsock->read_config(0, std::as_writable_bytes(std::span(&cid, 1)));
  CHECK_EQ(cid, 0xfffffffe);
  vsock->read_config(~uint64_t{0}, std::as_writable_bytes(std::span(&cid, 1)));
  CHECK_EQ(cid, 0);
}

TEST_CASE("host ports and sockets are checked when they are given") {
  GuestSide guest;
  Vsock& vsock = guest.device();
  CHECK(vsock.add_host_port(5, make_pair().first).has_value());
  CHECK_EQ(vsock.add_host_port(5, make_pair().first).error().reason(), "VSOCK_PORT");
  CHECK_FALSE(vsock.add_host_port(kPortAny, make_pair().first).has_value());
  CHECK_FALSE(vsock.add_host_port(kFirstEphemeralPort, make_pair().first).has_value());
  CHECK_EQ(vsock.add_host_port(6, *Fd::event()).error().reason(), "VSOCK_FD");
  CHECK_EQ(vsock.add_host_port(6, Fd()).error().reason(), "VSOCK_FD");
  CHECK_FALSE(vsock.add_host_port(6, (*Fd::socket_pair(SOCK_SEQPACKET)).first).has_value());
  for (uint32_t port = 100; port < 99 + kMaxHostPorts; ++port) {
    CHECK(vsock.add_host_port(port, make_pair().first).has_value());
  }
  CHECK_EQ(vsock.add_host_port(99, make_pair().first).error().reason(), "VSOCK_PORTS");
  CHECK_FALSE(vsock.connect(kPortAny, make_pair().first).has_value());
  CHECK_FALSE(vsock.connect(1, *Fd::event()).has_value());
}

TEST_CASE("the guest connects to a host port, once, and data goes both ways") {
  GuestSide guest;
  auto [host, given] = make_pair();
  REQUIRE(guest.device().add_host_port(1024, std::move(given)));
  guest.send(kOpRequest, 5000, 1024);
  const auto response = guest.next();
  REQUIRE(response.has_value());
  CHECK_EQ(uint16_t{response->header.op}, kOpResponse);
  CHECK_EQ(uint64_t{response->header.src_cid}, kHostCid);
  CHECK_EQ(uint64_t{response->header.dst_cid}, GuestSide::kCid);
  CHECK_EQ(uint32_t{response->header.src_port}, 1024);
  CHECK_EQ(uint32_t{response->header.dst_port}, 5000);
  CHECK_EQ(uint32_t{response->header.buf_alloc}, kSendBufferSize);

  guest.send(kOpRw, 5000, 1024, "hello ");
  guest.send(kOpRw, 5000, 1024, "");
  guest.send(kOpRw, 5000, 1024, "host");
  guest.settle();
  CHECK_EQ(read_all(host), "hello host");
  write_text(host, "hello guest");
  const auto data = guest.next();
  REQUIRE(data.has_value());
  CHECK_EQ(uint16_t{data->header.op}, kOpRw);
  CHECK_EQ(uint32_t{data->header.fwd_cnt}, 10);
  CHECK_EQ(data->payload, "hello guest");
  CHECK_EQ(guest.device().counters().tx_bytes, 10);
  CHECK_EQ(guest.device().counters().rx_bytes, 11);
  CHECK_EQ(guest.device().counters().connections, 1);

  guest.send(kOpRequest, 5001, 1024);
  CHECK_EQ(guest.next_op(), kOpRst);
  CHECK_EQ(guest.device().counters().refused, 1);
}

TEST_CASE("the host connects to the guest, before there is a driver or after") {
  GuestSide guest({.activate = false});
  auto [early, early_given] = make_pair();
  REQUIRE(guest.device().connect(52, std::move(early_given)));
  // A driver resets the device before it sets it up.
  guest.device().reset();
  guest.settle();
  write_text(early, "before");
  guest.activate();
  auto request = guest.next();
  REQUIRE(request.has_value());
  CHECK_EQ(uint16_t{request->header.op}, kOpRequest);
  CHECK_EQ(uint32_t{request->header.dst_port}, 52);
  const uint32_t host_port = request->header.src_port;
  CHECK_GE(host_port, kFirstEphemeralPort);
  CHECK_FALSE(guest.next().has_value());
  guest.send(kOpResponse, 52, host_port);
  CHECK_EQ(guest.next()->payload, "before");

  auto [late, late_given] = make_pair();
  REQUIRE(guest.device().connect(52, std::move(late_given)));
  request = guest.next();
  REQUIRE(request.has_value());
  CHECK_NE(uint32_t{request->header.src_port}, host_port);
  // Nobody listens there.
  guest.send(kOpRst, 52, request->header.src_port);
  guest.settle();
  CHECK_EQ(end_of(late), 0);
  CHECK_EQ(end_of(early), 1);
  CHECK_EQ(guest.device().connection_count(), 1);
}

TEST_CASE("an answer to a host's REQUEST that is none ends it") {
  for (const uint16_t op : {kOpRw, kOpRequest, kOpShutdown, kOpCreditUpdate, uint16_t{99}}) {
    GuestSide guest;
    auto [host, given] = make_pair();
    REQUIRE(guest.device().connect(52, std::move(given)));
    const uint32_t host_port = guest.next()->header.src_port;
    guest.send(op, 52, host_port);
    CHECK_EQ(guest.next_op(), kOpRst);
    CHECK_EQ(end_of(host), 0);
    CHECK_EQ(guest.device().connection_count(), 0);
  }
}

TEST_CASE("strays get RST, never for RST, and wrong addresses nothing") {
  GuestSide guest;
  for (const uint16_t op : {kOpRequest, kOpResponse, kOpShutdown, kOpRw, kOpCreditUpdate,
                            kOpCreditRequest, uint16_t{0}, uint16_t{0xffff}}) {
    guest.send(op, 1, 2);
    const auto reset = guest.next();
    REQUIRE(reset.has_value());
    CHECK_EQ(uint16_t{reset->header.op}, kOpRst);
    CHECK_EQ(uint32_t{reset->header.src_port}, 2);
    CHECK_EQ(uint32_t{reset->header.dst_port}, 1);
  }
  guest.send(kOpRst, 1, 2);
  CHECK_FALSE(guest.next().has_value());

  Header wrong = guest.header(kOpRequest, 1, 2);
  wrong.src_cid = 8;
  guest.send(wrong);
  wrong = guest.header(kOpRequest, 1, 2);
  wrong.dst_cid = 3;
  guest.send(wrong);
  wrong.dst_cid = kHostCid | uint64_t{1} << 32;
  guest.send(wrong);
  CHECK_FALSE(guest.next().has_value());
  CHECK_EQ(guest.device().counters().dropped, 3);

  const Fd host = guest.open(10, 20);
  wrong = guest.header(kOpRw, 10, 20);
  wrong.type = 2;
  guest.send(wrong, "datagram");
  const auto reset = guest.next();
  REQUIRE(reset.has_value());
  CHECK_EQ(uint16_t{reset->header.op}, kOpRst);
  CHECK_EQ(uint16_t{reset->header.type}, 2);
  CHECK_EQ(read_all(host), "");
  CHECK_EQ(end_of(host), 1);
}

TEST_CASE("packets out of turn end the connection") {
  for (const uint16_t op : {kOpRequest, kOpResponse, uint16_t{0}, uint16_t{8}}) {
    GuestSide guest;
    const Fd host = guest.open(10, 20);
    guest.send(op, 10, 20);
    CHECK_EQ(guest.next_op(), kOpRst);
    CHECK_EQ(end_of(host), 0);
    CHECK_EQ(guest.device().connection_count(), 0);
  }
}

TEST_CASE("a packet that its chain has no room for breaks the protocol") {
  GuestSide short_header;
  short_header.send_chain({short_header.driver(kTxQueue).readable(std::string(43, '\0'))});
  short_header.settle();
  CHECK_EQ(short_header.harness().resets_wanted, 1);

  GuestSide short_payload;
  Header header = short_payload.header(kOpRw, 1, 2);
  header.len = 0xffff'ffff;
  short_payload.send_chain({short_payload.driver(kTxQueue).readable_object(header),
                            short_payload.driver(kTxQueue).readable("abc")});
  short_payload.settle();
  CHECK_EQ(short_payload.harness().resets_wanted, 1);
  CHECK_EQ(short_payload.harness().reset_reason, "VSOCK_LENGTH");

  GuestSide short_buffer({.rx_buffers = 0});
  short_buffer.give({short_buffer.driver(kRxQueue).writable(43)});
  short_buffer.send(kOpRequest, 1, 2);
  short_buffer.settle();
  CHECK_EQ(short_buffer.harness().resets_wanted, 1);
}

TEST_CASE("header and payload may be cut anywhere, and a longer chain is no harm") {
  GuestSide guest;
  const Fd host = guest.open(10, 20);
  Header header = guest.header(kOpRw, 10, 20);
  header.len = 10;
  const std::string raw =
      std::string(std::bit_cast<const char*>(&header), sizeof(header)) + "0123456789 and more";
  auto& tx = guest.driver(kTxQueue);
  for (size_t cut = 1; cut + 1 < raw.size(); cut += 3) {
    guest.send_chain({tx.readable(raw.substr(0, cut / 2)), tx.readable(raw.substr(cut / 2, 1)),
                      tx.readable(raw.substr(cut / 2 + 1))});
    guest.settle();
    REQUIRE_EQ(read_all(host), "0123456789");
  }
  // And receive buffers in pieces: of one byte each, or whole.
  GuestSide pieces({.rx_buffers = 0});
  std::vector<testing::GuestBuffer> bytes;
  for (int i = 0; i < 60; ++i) bytes.push_back(pieces.driver(kRxQueue).writable(1));
  pieces.give(bytes);
  pieces.give({pieces.driver(kRxQueue).writable(44)});
  pieces.give({pieces.driver(kRxQueue).writable(100)});
  pieces.hoard = true;
  const Fd other = pieces.open(10, 20);
  write_text(other, "seventeen bytes..");
  // The second has room for a header alone.
  CHECK_EQ(pieces.next_op(), kOpCreditUpdate);
  CHECK_EQ(pieces.next()->payload, "seventeen bytes..");
}

TEST_CASE("no RST is lost in a storm that the guest gives no buffers for") {
  GuestSide guest({.rx_buffers = 0});
  guest.hoard = true;
  constexpr uint32_t kStorm = 600;
  uint32_t sent = 0;
  uint32_t answered = 0;
  while (answered < kStorm) {
    for (int round = 0; round < 2; ++round) {
      while (sent < kStorm && guest.tx_under_way() < 100) guest.send(kOpRequest, ++sent, 2);
      guest.settle();
    }
    // Two rounds are more than wait: the rest is left with the guest.
    if (answered == 0) CHECK_EQ(guest.tx_under_way(), 200 - StrayQueue::kCapacity);
    CHECK_LE(sent - answered, StrayQueue::kCapacity + 100u);
    guest.give_buffers(10);
    while (const auto packet = guest.next()) {
      CHECK_EQ(uint16_t{packet->header.op}, kOpRst);
      CHECK_EQ(uint32_t{packet->header.dst_port}, ++answered);
    }
  }
  CHECK_EQ(guest.tx_under_way(), 0);
}

TEST_CASE("a storm with buffers enough is answered in whole, in order") {
  GuestSide guest({.rx_buffers = 60});
  uint32_t sent = 0;
  uint32_t answered = 0;
  while (answered < 3000) {
    while (sent < 3000 && guest.tx_under_way() < 120) guest.send(kOpShutdown, ++sent, 9);
    const auto packet = guest.next();
    REQUIRE(packet.has_value());
    CHECK_EQ(uint32_t{packet->header.dst_port}, ++answered);
  }
}

TEST_CASE("with every connection in use, more are refused on both sides") {
  GuestSide guest({.files = 2100});
  std::vector<Fd> hosts;
  for (uint32_t i = 0; i < kMaxConnections; ++i) hosts.push_back(guest.open(i, 3));
  CHECK_EQ(guest.device().connection_count(), kMaxConnections);
  auto [host, given] = make_pair();
  CHECK_EQ(guest.device().connect(1, std::move(given)).error().reason(), "VSOCK_CONNECTIONS");
  auto [waiting, waiting_given] = make_pair();
  REQUIRE(guest.device().add_host_port(3, std::move(waiting_given)));
  guest.send(kOpRequest, 5000, 3);
  CHECK_EQ(guest.next_op(), kOpRst);
  // They all work, and when one goes another may come.
  for (size_t i = 0; i < hosts.size(); i += 93) write_text(hosts[i], "x");
  for (size_t i = 0; i < hosts.size(); i += 93) CHECK_EQ(guest.next_op(), kOpRw);
  guest.send(kOpRst, 7, 3);
  guest.send(kOpRequest, 5000, 3);
  CHECK_EQ(guest.next_op(), kOpResponse);
  CHECK_EQ(end_of(hosts[7]), 0);
}

TEST_CASE("a connection for which the loop has no file left is refused") {
  GuestSide guest({.files = 6});
  const Fd first = guest.open(1, 3);
  const Fd second = guest.open(2, 3);
  auto [host, given] = make_pair();
  REQUIRE(guest.device().add_host_port(3, std::move(given)));
  guest.send(kOpRequest, 3, 3);
  uint16_t op = guest.next_op();
  CHECK((op == kOpRst || op == kOpResponse));
  while (op == kOpResponse) {
    auto [more, more_given] = make_pair();
    REQUIRE(guest.device().add_host_port(3, std::move(more_given)));
    guest.send(kOpRequest, static_cast<uint32_t>(guest.device().counters().connections) + 9, 3);
    op = guest.next_op();
  }
  CHECK_EQ(op, kOpRst);
}

TEST_CASE("a reset closes every connection, and the next driver finds none") {
  GuestSide guest;
  const Fd one = guest.open(1, 3);
  const Fd two = guest.open(2, 3);
  auto [asked, asked_given] = make_pair();
  REQUIRE(guest.device().connect(9, std::move(asked_given)));
  CHECK_EQ(guest.next_op(), kOpRequest);
  auto [waiting, waiting_given] = make_pair();
  REQUIRE(guest.device().add_host_port(3, std::move(waiting_given)));
  guest.send(kOpRw, 1, 3, "last words");
  guest.settle();
  guest.reset();
  CHECK(guest.device().idle());
  guest.activate();
  guest.settle();
  CHECK_EQ(guest.device().connection_count(), 0);
  CHECK_EQ(read_all(one), "last words");
  CHECK_EQ(end_of(one), 0);
  CHECK_EQ(end_of(two), 0);
  CHECK_EQ(end_of(asked), 0);
  guest.send(kOpRw, 1, 3, "ghost");
  CHECK_EQ(guest.next_op(), kOpRst);
  // A port that nobody took is still there.
  guest.send(kOpRequest, 1, 3);
  CHECK_EQ(guest.next_op(), kOpResponse);
  CHECK_EQ(end_of(waiting), 1);
}

TEST_CASE("a saved device is restored, a broken state refused") {
  GuestSide guest({.activate = false});
  State state = guest.device().save();
  CHECK_EQ(state.guest_cid, GuestSide::kCid);
  state.next_host_port = kPortAny - 1;
  state.guest_cid = 1000;
  REQUIRE(guest.device().restore(state));
  // The CID is the new machine's.
  state.guest_cid = GuestSide::kCid;
  CHECK_EQ(guest.device().save(), state);
  for (const State bad : {State{2, kFirstEphemeralPort}, State{7, 0}, State{7, kPortAny}}) {
    CHECK_FALSE(guest.device().restore(bad).has_value());
  }
  CHECK_EQ(guest.device().save(), state);
}

TEST_CASE("after a transport reset the driver hears of it before anything else") {
  for (const bool event_idx : {true, false}) {
    GuestSide guest({.event_idx = event_idx});
    for (int i = 0; i < 3; ++i) guest.give_event_buffer();
    const Fd old = guest.open(1, 1024);
    CHECK_FALSE(guest.next_event().has_value());
    auto [agent, agent_given] = make_pair();
    auto [command, command_given] = make_pair();
    guest.send(kOpRw, 1, 1024, "last words");
    guest.settle();

    guest.device().reset_transport();
    CHECK_EQ(end_of(old), 1);
    REQUIRE(guest.device().add_host_port(1024, std::move(agent_given)));
    REQUIRE(guest.device().connect(52, std::move(command_given)));
    // One packet of the old connection, and a new one that must not be taken for an old one.
    guest.send(kOpRw, 1, 1024, "ghost");
    guest.send(kOpRequest, 2, 1024);
    guest.settle();
    CHECK_EQ(read_all(old), "last words");
    CHECK_EQ(end_of(old), 0);
    CHECK_EQ(guest.tx_under_way(), 2);
    CHECK_EQ(guest.next_op(), 0);
    CHECK_EQ(guest.next_event(), std::optional(kEventTransportReset));
    CHECK_EQ(guest.next_op(), 0);

    guest.give_event_buffer();
    guest.settle();
    CHECK_EQ(guest.tx_under_way(), 0);
    std::array<uint16_t, 3> ops = {guest.next_op(), guest.next_op(), guest.next_op()};
    std::ranges::sort(ops);
    CHECK_EQ(ops, std::array{kOpRequest, kOpResponse, kOpRst});
    CHECK_FALSE(guest.next_event().has_value());
    CHECK_EQ(end_of(agent), 1);
    CHECK_EQ(end_of(command), 1);
  }
}

TEST_CASE("a transport reset waits for a buffer, for a thaw, and for no driver that has no queue") {
  GuestSide guest;
  const Fd old = guest.open(1, 3);
  guest.device().reset_transport();
  guest.settle();
  CHECK_EQ(end_of(old), 0);
  guest.send(kOpRequest, 2, 3);
  CHECK_EQ(guest.next_op(), 0);
  guest.harness().queue(kEventQueue).set_frozen(true);
  guest.give_event_buffer();
  CHECK_FALSE(guest.next_event().has_value());
  guest.harness().queue(kEventQueue).set_frozen(false);
  guest.device().queue_notified(kEventQueue);
  CHECK_EQ(guest.next_event(), std::optional(kEventTransportReset));
  guest.give_event_buffer();
  CHECK_EQ(guest.next_op(), kOpRst);

  const Fd again = guest.open(1, 3);
  guest.harness().queue(kEventQueue).reset();
  guest.device().reset_transport();
  guest.settle();
  CHECK_EQ(end_of(again), 0);
  guest.send(kOpRequest, 2, 3);
  CHECK_EQ(guest.next_op(), kOpRst);

  GuestSide absent({.activate = false});
  absent.device().reset_transport();
  absent.activate();
  const Fd first = absent.open(1, 3);
  CHECK_EQ(end_of(first), 1);
}

TEST_CASE("a driver that reboots before it has heard of a transport reset starts afresh") {
  GuestSide guest;
  guest.device().reset_transport();
  guest.settle();
  guest.reset();
  guest.activate();
  guest.give_event_buffer();
  const Fd first = guest.open(1, 3);
  CHECK_EQ(end_of(first), 1);
  CHECK_FALSE(guest.next_event().has_value());
}

TEST_CASE("an event that its buffer has no room for breaks the protocol") {
  for (const uint64_t bytes : {uint64_t{0}, sizeof(Event) - 1}) {
    GuestSide guest;
    guest.give_event_buffer(bytes);
    guest.device().reset_transport();
    guest.settle();
    CHECK_EQ(guest.harness().reset_reason, "VSOCK_EVENT_BUFFER");
  }
  GuestSide guest;
  auto& driver = guest.driver(kEventQueue);
  driver.add({driver.readable(std::string(64, 'r'))});
  guest.device().reset_transport();
  guest.settle();
  CHECK_EQ(guest.harness().reset_reason, "VSOCK_EVENT_BUFFER");
  CHECK_EQ(guest.harness().resets_wanted, 1);
}

}  // namespace
}  // namespace mayfly::virtio::vsock
