// SPDX-License-Identifier: Apache-2.0
#include "cli/net_spec.h"

#include "cli/vm_spec.h"

#include <charconv>
#include <sstream>
#include <string_view>

namespace mayfly::cli {

namespace {

bool to_number(std::string_view digits, uint32_t& number) {
  const char* const end = digits.data() + digits.size();
  const auto [stop, error] = std::from_chars(digits.data(), end, number);
  return error == std::errc() && stop == end;
}

/// "[ADDRESS/]HOST[:GUEST]".
bool set_port(v1::PortForward& port, std::string_view value) {
  if (const size_t slash = value.find('/'); slash != value.npos) {
    port.set_host_address(std::string(value.substr(0, slash)));
    value.remove_prefix(slash + 1);
  }
  uint32_t host = 0;
  uint32_t guest = 0;
  const size_t colon = value.find(':');
  if (!to_number(value.substr(0, colon), host)) return false;
  if (colon != value.npos && !to_number(value.substr(colon + 1), guest)) return false;
  port.set_host_port(host);
  port.set_guest_port(guest);
  return true;
}

bool set(v1::Net& net, const std::string& key, const std::string& value) {
  if (key == "tap") {
    net.set_tap(value);
  } else if (key == "netns") {
    net.set_network_namespace(absolute(value));
  } else if (key == "bridge") {
    net.set_bridge(value);
  } else if (key == "host") {
    net.set_host_address(value);
  } else if (key == "mac") {
    net.set_mac(value);
  } else if (key == "mtu") {
    uint32_t mtu = 0;
    if (!to_number(value, mtu)) return false;
    net.set_mtu(mtu);
  } else if (key == "address") {
    net.mutable_guest()->set_address(value);
  } else if (key == "gateway") {
    net.mutable_guest()->set_gateway(value);
  } else if (key == "dns") {
    net.mutable_guest()->add_nameservers(value);
  } else if (key == "tcp") {
    return set_port(*net.add_tcp_ports(), value);
  } else {
    return false;
  }
  return true;
}

}  // namespace

Result<v1::Net> parse_net(const std::string& text) {
  v1::Net net;
  if (text == "auto") {
    net.set_automatic(true);
    return net;
  }
  std::istringstream words(text);
  for (std::string word; std::getline(words, word, ',');) {
    const size_t equals = word.find('=');
    if (equals != std::string::npos && set(net, word.substr(0, equals), word.substr(equals + 1))) {
      continue;
    }
    if (word == "auto" || word == "user") {
      word == "auto" ? net.set_automatic(true) : net.set_user_mode(true);
      continue;
    }
    return fail(
        {Code::kInvalidArgument, "NET"},
        "--net: \"%s\" is none of auto, user, and KEY=VALUE with one of tap, netns, bridge, "
        "host, mac, mtu, address, gateway, dns, tcp",
        word.c_str());
  }
  return net;
}

}  // namespace mayfly::cli
