// SPDX-License-Identifier: Apache-2.0
#include "cli/net_spec.h"

#include "cli/vm_spec.h"

#include <charconv>
#include <sstream>

namespace mayfly::cli {

namespace {

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
    const char* const end = value.data() + value.size();
    const auto [stop, error] = std::from_chars(value.data(), end, mtu);
    if (error != std::errc() || stop != end) return false;
    net.set_mtu(mtu);
  } else if (key == "address") {
    net.mutable_guest()->set_address(value);
  } else if (key == "gateway") {
    net.mutable_guest()->set_gateway(value);
  } else if (key == "dns") {
    net.mutable_guest()->add_nameservers(value);
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
    if (word == "auto") {
      net.set_automatic(true);
      continue;
    }
    return fail({Code::kInvalidArgument, "NET"},
                "--net: \"%s\" is neither auto nor KEY=VALUE with one of tap, netns, bridge, host, "
                "mac, mtu, address, gateway, dns",
                word.c_str());
  }
  return net;
}

}  // namespace mayfly::cli
