// SPDX-License-Identifier: Apache-2.0
//
// A real tap device, in a network namespace of this test's own.
#include "virtio/net/tap_sys.h"

#include <doctest/doctest.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

namespace mayfly::virtio::net {
namespace {

struct Client final : BackendClient {
  void on_frames_waiting() override { ++waiting; }
  void on_room_to_send() override { ++room; }
  int waiting = 0;
  int room = 0;
};

// Of this process, from the first call on.
bool own_namespace() {
  static const bool has =
      ::unshare(CLONE_NEWNET) == 0 || ::unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0;
  return has && ::access("/dev/net/tun", R_OK | W_OK) == 0;
}

Fd open_tap(const char* name, int flags) {
  Fd tap = MUST(Fd::open("/dev/net/tun", O_RDWR | O_NONBLOCK));
  ifreq request = {};
  std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  request.ifr_flags = static_cast<short>(flags);
  REQUIRE_EQ(::ioctl(tap.number(), TUNSETIFF, &request), 0);
  return tap;
}

// The host's end: a socket that sees the tap device's frames as the host's network does.
Fd open_host(const char* name) {
  Fd host(::socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, htons(ETH_P_ALL)));
  REQUIRE(host.valid());
  ifreq request = {};
  std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  REQUIRE_EQ(::ioctl(host.number(), SIOCGIFFLAGS, &request), 0);
  request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
  REQUIRE_EQ(::ioctl(host.number(), SIOCSIFFLAGS, &request), 0);
  REQUIRE_EQ(::ioctl(host.number(), SIOCGIFINDEX, &request), 0);
  sockaddr_ll address = {};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = request.ifr_ifindex;
  REQUIRE_EQ(::bind(host.number(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  return host;
}

// An Ethernet frame of a protocol that nobody else speaks.
std::vector<std::byte> frame_of(size_t size) {
  std::vector<std::byte> frame(size);
  for (size_t i = 0; i < size; ++i) frame[i] = std::byte(i % 250);
  for (size_t i = 0; i < 6; ++i) frame[i] = std::byte{0xff};
  frame[6] = std::byte{0x02};
  frame[12] = std::byte{0x88};
  frame[13] = std::byte{0xb5};
  return frame;
}

bool is_ours(std::span<const std::byte> frame) {
  return frame.size() > 13 && frame[12] == std::byte{0x88} && frame[13] == std::byte{0xb5};
}

constexpr int kGoodFlags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

struct Setup {
  std::unique_ptr<Loop> loop = *Loop::create({});
  Client client;
  std::unique_ptr<Tap> tap;
  Fd host;

  Setup() {
    // A device that a ring had goes a little after the ring.
    static int number = 0;
    const std::string name = format("mf-test%d", number++);
    Fd fd = open_tap(name.c_str(), kGoodFlags);
    auto made = Tap::create(*loop, std::move(fd));
    REQUIRE(made.has_value());
    tap = *std::move(made);
    tap->attach(client);
    host = open_host(name.c_str());
  }
  // The next frame of ours, past what the host's own network has to say.
  IoResult receive(Header& header, std::span<const iovec> pieces) {
    for (int i = 0; i < 100; ++i) {
      const IoResult got = tap->receive(header, pieces);
      if (got.status != IoStatus::kMoved) return got;
      const auto* bytes = static_cast<const std::byte*>(pieces[0].iov_base);
      if (is_ours(std::span(bytes, pieces[0].iov_len))) return got;
    }
    return {IoStatus::kFailed};
  }
};

std::string reason_of(Loop& loop, Fd fd) {
  const auto tap = Tap::create(loop, std::move(fd));
  return tap ? "" : tap.error().reason();
}

TEST_CASE("only an attached tap device with headers is one") {
  if (!own_namespace()) return (void)std::printf("SKIPPED: a tap device: none may be made here\n");
  auto loop = MUST(Loop::create({}));
  CHECK_EQ(reason_of(*loop, MUST(Fd::event())), "NET_TAP");
  CHECK_EQ(reason_of(*loop, MUST(Fd::open("/dev/net/tun", O_RDWR | O_NONBLOCK))), "NET_TAP");
  CHECK_EQ(reason_of(*loop, open_tap("mf-tun", IFF_TUN | IFF_NO_PI | IFF_VNET_HDR)), "NET_TAP");
  CHECK_EQ(reason_of(*loop, open_tap("mf-plain", IFF_TAP | IFF_NO_PI)), "NET_TAP");
  const Fd blocking = open_tap("mf-block", kGoodFlags);
  REQUIRE_EQ(::fcntl(blocking.number(), F_SETFL, 0), 0);
  CHECK_EQ(reason_of(*loop, MUST(Fd::duplicate(blocking.ref()))), "NET_TAP");
  CHECK_EQ(reason_of(*loop, open_tap("mf-good", kGoodFlags)), "");
}

TEST_CASE("frames come and go whole, over pieces of any cut") {
  if (!own_namespace()) return (void)std::printf("SKIPPED: a tap device: none may be made here\n");
  Setup s;
  CHECK(s.tap->offloads().csum);
  CHECK(s.tap->offloads().tso6);
  REQUIRE(s.tap->let_guest_do({.csum = true, .tso4 = true}).has_value());

  const auto frame = frame_of(1000);
  REQUIRE_EQ(::send(s.host.number(), frame.data(), frame.size(), 0), 1000);
  for (int i = 0; s.client.waiting == 0 && i < 100; ++i) REQUIRE(s.loop->run_once());
  std::array<std::byte, 300> first{};
  std::array<std::byte, 1000> second{};
  const std::array<iovec, 2> pieces = {iovec{first.data(), first.size()},
                                       iovec{second.data(), second.size()}};
  Header header = {};
  header.gso_type = 99;
  const IoResult got = s.receive(header, pieces);
  REQUIRE(got.status == IoStatus::kMoved);
  CHECK_EQ(got.bytes, 1000);
  CHECK_EQ(header.gso_type, kGsoNone);
  CHECK_EQ(std::memcmp(first.data(), frame.data(), 300), 0);
  CHECK_EQ(std::memcmp(second.data(), frame.data() + 300, 700), 0);
  CHECK(s.receive(header, pieces).status == IoStatus::kWouldBlock);

  const std::array<iovec, 2> out = {iovec{const_cast<std::byte*>(frame.data()), 14},
                                    iovec{const_cast<std::byte*>(frame.data()) + 14, 986}};
  CHECK_EQ(s.tap->send({}, out).bytes, 1000);
  std::array<std::byte, 2000> seen{};
  ssize_t size = 0;
  do {
    size = ::recv(s.host.number(), seen.data(), seen.size(), 0);
    REQUIRE_GT(size, 0);
  } while (!is_ours(seen) || seen[20] != std::byte{20} || size != 1000);
}

TEST_CASE("a frame that is longer than its room says so, and the next one is whole") {
  if (!own_namespace()) return (void)std::printf("SKIPPED: a tap device: none may be made here\n");
  Setup s;
  const auto frame = frame_of(1000);
  REQUIRE_EQ(::send(s.host.number(), frame.data(), 1000, 0), 1000);
  REQUIRE_EQ(::send(s.host.number(), frame.data(), 200, 0), 200);
  std::array<std::byte, 999> room{};
  const std::array<iovec, 1> pieces = {iovec{room.data(), room.size()}};
  Header header;
  CHECK_GT(s.receive(header, pieces).bytes, room.size());
  CHECK_EQ(s.receive(header, pieces).bytes, 200);
}

TEST_CASE("a header that makes no sense costs the frame alone") {
  if (!own_namespace()) return (void)std::printf("SKIPPED: a tap device: none may be made here\n");
  Setup s;
  const auto frame = frame_of(100);
  const std::array<iovec, 1> pieces = {iovec{const_cast<std::byte*>(frame.data()), frame.size()}};
  CHECK(s.tap->send({.gso_type = 0x7f, .gso_size = 1}, pieces).status == IoStatus::kFailed);
  CHECK(s.tap->send({.flags = kHeaderNeedsCsum, .csum_start = 65000}, pieces).status ==
        IoStatus::kFailed);
  CHECK_EQ(s.tap->send({}, pieces).bytes, 100);
}

}  // namespace
}  // namespace mayfly::virtio::net
