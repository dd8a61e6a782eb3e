// SPDX-License-Identifier: Apache-2.0
#include "daemon/net_spec.h"

#include "daemon/address_pool.h"

#include <doctest/doctest.h>

namespace mayfly::daemon {
namespace {

template <typename T>
std::string reason_of(const Result<T>& result) {
  return result ? "" : result.error().reason();
}

TEST_CASE("addresses are read as they are written, and nothing else is") {
  CHECK_EQ(*parse_ip4("f", "10.0.0.1"), 0x0a00'0001);
  CHECK_EQ(*parse_ip4_prefix("f", "192.168.7.9/22"), Ip4Prefix{0xc0a8'0709, 22});
  CHECK_EQ(to_text(*parse_ip4_prefix("f", "255.255.255.255/32")), "255.255.255.255/32");
  CHECK_EQ(Ip4Prefix{0, 22}.mask(), 0xffff'fc00);
  for (const char* text : {"", "/", "10.0.0.1", "10.0.0.1/", "10.0.0.1/0", "10.0.0.1/33",
                           "10.0.0.1/2x", "10.0.0.1/256", "10.0.0/8", "::1/64", "10.0.0.1/+8"}) {
    CHECK_EQ(reason_of(parse_ip4_prefix("f", text)), "NET_ADDRESS");
  }
  const auto named = parse_ip4("nets[0].guest.gateway", "x\n");
  REQUIRE_FALSE(named.has_value());
  CHECK_EQ(named.error().message().find("nets[0].guest.gateway: \"x"), 0);
}

TEST_CASE("MAC addresses are six bytes, and a drawn one is local and nobody else's") {
  CHECK_EQ(*parse_mac("f", "02:aB:0c:00:ff:1f"), MacAddress{2, 0xab, 0x0c, 0, 0xff, 0x1f});
  CHECK_EQ(to_text(MacAddress{2, 0xab, 0x0c, 0, 0xff, 0x1f}), "02:ab:0c:00:ff:1f");
  for (const char* text :
       {"", "02", "02:00:00:00:00", "02:00:00:00:00:01:", "02:00:00:00:00:1", "2:00:00:00:00:01",
        "02-00-00-00-00-01", "02:00:00:00:00:0g", "00:00:00:00:00:00", "02:00:00:00:00:01:02"}) {
    CHECK_EQ(reason_of(parse_mac("f", text)), "NET_ADDRESS");
  }
  const MacAddress one = random_mac();
  CHECK_EQ(one[0] & 3, 2);
  CHECK_NE(one, random_mac());
}

TEST_CASE("what cannot be of a network device is refused by name") {
  const auto refused = [](auto change, bool has_agent = true) {
    std::vector<NetSpec> nets(2);
    change(nets[1]);
    const Result<> valid = validate(nets, has_agent);
    if (!valid) CHECK_EQ(valid.error().message().find("nets[1]."), 0);
    return reason_of(valid);
  };
  CHECK_EQ(refused([](NetSpec&) {}), "");
  CHECK_EQ(refused([](NetSpec& net) { net.tap = "sixteen-letters-"; }), "NET_NAME");
  CHECK_EQ(refused([](NetSpec& net) { net.tap = "fifteen-letters"; }), "");
  for (const char* name : {"a/b", "a b", "..", "a:0", "tap%d", "\x7f"}) {
    CHECK_EQ(refused([&](NetSpec& net) { net.tap = name; }), "NET_NAME");
    CHECK_EQ(refused([&](NetSpec& net) { net.bridge = name; }), "NET_NAME");
  }
  CHECK_EQ(refused([](NetSpec& net) { net.network_namespace = "run/netns/x"; }),
           "PATH_NOT_ABSOLUTE");
  CHECK_EQ(refused([](NetSpec& net) { net.mtu = 67; }), "NET_MTU");
  CHECK_EQ(refused([](NetSpec& net) { net.mtu = 65536; }), "NET_MTU");
  CHECK_EQ(refused([](NetSpec& net) { net.mac = MacAddress{1, 0, 0, 0, 0, 1}; }), "NET_MAC");
  CHECK_EQ(refused([](NetSpec& net) { net.guest.emplace(); }, false), "NO_AGENT");
  CHECK_EQ(refused([](NetSpec& net) { net.guest.emplace().nameservers.resize(4); }),
           "NET_NAMESERVERS");
  CHECK_EQ(refused([](NetSpec& net) {
             net.automatic = true;
             net.tap = "tap0";
           }),
           "NET_AUTOMATIC");
  const auto in_user_mode = [](NetSpec& net) { net.user_mode = true; };
  CHECK_EQ(refused(in_user_mode), "");
  for (const auto change : std::initializer_list<void (*)(NetSpec&)>{
           [](NetSpec& net) { net.tap = "tap0"; },
           [](NetSpec& net) { net.network_namespace = "/run/netns/a"; },
           [](NetSpec& net) { net.bridge = "br0"; },
           [](NetSpec& net) { net.host_address = Ip4Prefix{1, 24}; },
           [](NetSpec& net) { net.guest.emplace().address = Ip4Prefix{1, 24}; }}) {
    CHECK_EQ(refused([&](NetSpec& net) {
               net.user_mode = true;
               change(net);
             }),
             "NET_USER_MODE");
  }
  const auto with_port = [&](const PortForward& port, size_t count = 1) {
    return refused([&](NetSpec& net) {
      net.user_mode = true;
      net.tcp_ports.assign(count, port);
    });
  };
  CHECK_EQ(with_port({.host_port = 65535, .guest_port = 1}, 16), "");
  CHECK_EQ(with_port({.host_port = 1}, 17), "NET_PORTS");
  CHECK_EQ(with_port({.host_port = 0}), "NET_PORTS");
  CHECK_EQ(with_port({.host_port = 65536}), "NET_PORTS");
  CHECK_EQ(with_port({.host_port = 1, .guest_port = 65536}), "NET_PORTS");
  CHECK_EQ(refused([](NetSpec& net) { net.tcp_ports.resize(1); }), "NET_PORTS");
  CHECK_EQ(reason_of(validate(std::vector<NetSpec>(5), true)), "NET_COUNT");
}

TEST_CASE("a pool gives each network to one at a time, and says when it has no more") {
  const auto pool = *AddressPool::create("10.1.2.0/28");
  std::vector<AddressLease> leases;
  for (int i = 0; i < 4; ++i) leases.push_back(*pool->take());
  CHECK_EQ(to_text(leases[0].host()), "10.1.2.1/30");
  CHECK_EQ(to_text(leases[0].guest()), "10.1.2.2/30");
  CHECK_EQ(to_text(leases[3].host()), "10.1.2.13/30");
  const auto none = pool->take();
  REQUIRE_FALSE(none.has_value());
  CHECK_EQ(none.error().reason(), "NET_POOL");
  CHECK_NE(none.error().message().find("10.1.2.0/28"), std::string::npos);
  leases.erase(leases.begin() + 2);
  CHECK_EQ(to_text(pool->take()->host()), "10.1.2.9/30");
  for (const char* text : {"10.1.2.0", "10.1.2.1/28", "10.0.0.0/7", "10.1.2.0/31", "x/16"}) {
    CHECK_FALSE(AddressPool::create(text).has_value());
  }
}

}  // namespace
}  // namespace mayfly::daemon
