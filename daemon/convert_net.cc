// SPDX-License-Identifier: Apache-2.0
#include "daemon/convert_net.h"

namespace mayfly::daemon {

namespace {

Result<GuestNetwork> from_proto(const std::string& field, const v1::GuestNetwork& in) {
  GuestNetwork guest;
  guest.address = TRY(parse_ip4_prefix((field + ".address").c_str(), in.address()));
  if (!in.gateway().empty()) {
    guest.gateway = TRY(parse_ip4((field + ".gateway").c_str(), in.gateway()));
  }
  for (const std::string& server : in.nameservers()) {
    guest.nameservers.push_back(TRY(parse_ip4((field + ".nameservers").c_str(), server)));
  }
  return guest;
}

void to_proto(const GuestNetwork& in, v1::GuestNetwork* out) {
  out->set_address(to_text(in.address));
  if (in.gateway) out->set_gateway(to_text(*in.gateway));
  for (const uint32_t server : in.nameservers) out->add_nameservers(to_text(server));
}

}  // namespace

Result<NetSpec> from_proto(const std::string& field, const v1::Net& in) {
  NetSpec spec{.tap = in.tap(),
               .network_namespace = in.network_namespace(),
               .bridge = in.bridge(),
               .automatic = in.automatic(),
               .user_mode = in.user_mode()};
  for (const v1::PortForward& port : in.tcp_ports()) {
    PortForward& added = spec.tcp_ports.emplace_back();
    if (!port.host_address().empty()) {
      added.host_address =
          TRY(parse_ip4((field + ".tcp_ports.host_address").c_str(), port.host_address()));
    }
    added.host_port = port.host_port();
    added.guest_port = port.guest_port();
  }
  if (!in.host_address().empty()) {
    spec.host_address = TRY(parse_ip4_prefix((field + ".host_address").c_str(), in.host_address()));
  }
  if (!in.mac().empty()) spec.mac = TRY(parse_mac((field + ".mac").c_str(), in.mac()));
  if (in.has_mtu()) spec.mtu = in.mtu();
  if (in.has_guest()) spec.guest = TRY(from_proto(field + ".guest", in.guest()));
  return spec;
}

void to_proto(const NetView& in, v1::Net* out) {
  out->set_tap(in.tap);
  out->set_network_namespace(in.network_namespace);
  out->set_bridge(in.bridge);
  if (in.host_address) out->set_host_address(to_text(*in.host_address));
  out->set_mac(to_text(in.mac));
  out->set_mtu(in.mtu);
  if (in.guest) to_proto(*in.guest, out->mutable_guest());
  out->set_automatic(in.automatic);
  out->set_user_mode(in.user_mode);
  for (const PortForward& port : in.tcp_ports) {
    v1::PortForward* added = out->add_tcp_ports();
    added->set_host_address(to_text(port.host_address));
    added->set_host_port(port.host_port);
    added->set_guest_port(port.guest_port);
  }
  out->set_failure(in.failure);
}

}  // namespace mayfly::daemon
