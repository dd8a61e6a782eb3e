// SPDX-License-Identifier: Apache-2.0
#include "daemon/net_spec.h"

#include "daemon/random.h"
#include "daemon/text.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

#include <arpa/inet.h>

namespace mayfly::daemon {

namespace {

constexpr size_t kLongestShown = 64;
constexpr uint32_t kMaxPort = 65535;

std::unexpected<Error> refused(const char* field, const std::string& text, const char* form) {
  return fail({Code::kInvalidArgument, "NET_ADDRESS"}, "%s: \"%s\" is not of the form %s", field,
              printable(text, kLongestShown).c_str(), form);
}

Result<> validate_name(const char* field, const std::string& name) {
  const bool good = name.size() <= kMaxDeviceName && name != "." && name != ".." &&
                    std::ranges::all_of(name, [](char c) {
                      return c > 0x20 && c < 0x7f && c != '/' && c != ':' && c != '%';
                    });
  if (good) return {};
  return fail({Code::kInvalidArgument, "NET_NAME"},
              "%s: \"%s\" is no name of a network device (1 to %zu characters, none of them space, "
              "/, : and %%)",
              field, printable(name, kLongestShown).c_str(), kMaxDeviceName);
}

Result<> validate_automatic(const std::string& field, const NetSpec& net) {
  const char* given = !net.tap.empty()      ? "tap"
                      : net.host_address    ? "host_address"
                      : net.guest           ? "guest"
                      : !net.bridge.empty() ? "bridge"
                                            : nullptr;
  if (given == nullptr) return {};
  return fail({Code::kInvalidArgument, "NET_AUTOMATIC"},
              "%s.%s: with `automatic` it is the daemon's", field.c_str(), given);
}

Result<> validate_guest(const std::string& field, const GuestNetwork& guest, bool has_agent) {
  if (!has_agent) {
    return fail({Code::kInvalidArgument, "NO_AGENT"},
                "%s.guest: needs the agent, which sets it in the guest", field.c_str());
  }
  if (guest.nameservers.size() > kMaxNameservers) {
    return fail({Code::kInvalidArgument, "NET_NAMESERVERS"},
                "%s.guest.nameservers: %zu are above the limit of %zu", field.c_str(),
                guest.nameservers.size(), kMaxNameservers);
  }
  return {};
}

Result<> validate_user_mode(const std::string& field, const NetSpec& net) {
  const char* given = !net.tap.empty()                 ? "tap"
                      : !net.network_namespace.empty() ? "network_namespace"
                      : !net.bridge.empty()            ? "bridge"
                      : net.host_address               ? "host_address"
                                                       : nullptr;
  if (net.user_mode && given != nullptr) {
    return fail({Code::kInvalidArgument, "NET_USER_MODE"},
                "%s.%s: with `user_mode` there is no device", field.c_str(), given);
  }
  if (net.user_mode && net.guest && !net.guest->gateway) {
    return fail({Code::kInvalidArgument, "NET_USER_MODE"},
                "%s.guest.gateway: with `user_mode` the guest needs one", field.c_str());
  }
  if (!net.tcp_ports.empty() && !net.user_mode && !net.automatic) {
    return fail({Code::kInvalidArgument, "NET_PORTS"}, "%s.tcp_ports: they need `user_mode`",
                field.c_str());
  }
  if (net.tcp_ports.size() > kMaxPortForwards) {
    return fail({Code::kInvalidArgument, "NET_PORTS"},
                "%s.tcp_ports: %zu are above the limit of %zu", field.c_str(), net.tcp_ports.size(),
                kMaxPortForwards);
  }
  for (const PortForward& port : net.tcp_ports) {
    if (port.host_port > 0 && port.host_port <= kMaxPort && port.guest_port <= kMaxPort) continue;
    return fail({Code::kInvalidArgument, "NET_PORTS"},
                "%s.tcp_ports: %u to %u are not within 1 to %u", field.c_str(), port.host_port,
                port.guest_port, kMaxPort);
  }
  return {};
}

Result<> validate(const std::string& field, const NetSpec& net, bool has_agent) {
  if (!net.tap.empty()) TRY(validate_name((field + ".tap").c_str(), net.tap));
  if (!net.bridge.empty()) TRY(validate_name((field + ".bridge").c_str(), net.bridge));
  if (!net.network_namespace.empty() && net.network_namespace[0] != '/') {
    return fail({Code::kInvalidArgument, "PATH_NOT_ABSOLUTE"},
                "%s.network_namespace: %s is not an absolute path", field.c_str(),
                printable(net.network_namespace, 200).c_str());
  }
  if (net.mtu && (*net.mtu < kMinMtu || *net.mtu > kMaxMtu)) {
    return fail({Code::kInvalidArgument, "NET_MTU"}, "%s.mtu: %u is not within %u to %u",
                field.c_str(), *net.mtu, kMinMtu, kMaxMtu);
  }
  if (net.mac && ((*net.mac)[0] & 1) != 0) {
    return fail({Code::kInvalidArgument, "NET_MAC"}, "%s.mac: %s is a group's, not a device's",
                field.c_str(), to_text(*net.mac).c_str());
  }
  if (net.guest) TRY(validate_guest(field, *net.guest, has_agent));
  TRY(validate_user_mode(field, net));
  return net.automatic ? validate_automatic(field, net) : Result<>();
}

}  // namespace

Result<uint32_t> parse_ip4(const char* field, const std::string& text) {
  in_addr address = {};
  if (::inet_pton(AF_INET, text.c_str(), &address) == 1) return ntohl(address.s_addr);
  return refused(field, text, "10.0.0.1");
}

Result<Ip4Prefix> parse_ip4_prefix(const char* field, const std::string& text) {
  const size_t slash = text.find('/');
  if (slash == std::string::npos) return refused(field, text, "10.0.0.1/24");
  Ip4Prefix prefix{.address = TRY(parse_ip4(field, text.substr(0, slash))), .bits = 0};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data() + slash + 1, end, prefix.bits);
  if (error != std::errc() || stop != end || prefix.bits == 0 || prefix.bits > 32) {
    return refused(field, text, "10.0.0.1/24");
  }
  return prefix;
}

Result<MacAddress> parse_mac(const char* field, const std::string& text) {
  MacAddress mac = {};
  const char* at = text.data();
  const char* const end = at + text.size();
  for (size_t i = 0; i < mac.size(); ++i) {
    const auto [stop, error] = std::from_chars(at, std::min(end, at + 2), mac[i], 16);
    const bool last = i + 1 == mac.size();
    if (error != std::errc() || stop != at + 2 ||
        (last ? stop != end : stop == end || *stop != ':')) {
      return refused(field, text, "02:00:00:00:00:01");
    }
    at = stop + 1;
  }
  if (mac == MacAddress{})
    return refused(field, text, "02:00:00:00:00:01, which is not all zeroes");
  return mac;
}

std::string to_text(uint32_t ip4) {
  return format("%u.%u.%u.%u", ip4 >> 24, ip4 >> 16 & 0xff, ip4 >> 8 & 0xff, ip4 & 0xff);
}

std::string to_text(const Ip4Prefix& prefix) {
  return to_text(prefix.address) + format("/%u", prefix.bits);
}

std::string to_text(const MacAddress& mac) {
  return format("%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
}

MacAddress random_mac() {
  MacAddress mac = {};
  std::ranges::copy(random_bytes(mac.size()), mac.begin());
  mac[0] = static_cast<uint8_t>((mac[0] & 0xfc) | 2);
  return mac;
}

std::string net_field(size_t place) { return format("nets[%zu]", place); }

Result<> validate(const std::vector<NetSpec>& nets, bool has_agent) {
  if (nets.size() > kMaxNets) {
    return fail({Code::kInvalidArgument, "NET_COUNT"}, "nets: %zu are above the limit of %zu",
                nets.size(), kMaxNets);
  }
  for (size_t i = 0; i < nets.size(); ++i) TRY(validate(net_field(i), nets[i], has_agent));
  return {};
}

}  // namespace mayfly::daemon
