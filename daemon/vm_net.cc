// SPDX-License-Identifier: Apache-2.0
#include "daemon/vm_net.h"

#include "daemon/tap_sys.h"

#include <utility>

namespace mayfly::daemon {

namespace {

Result<> lease_addresses(const std::string& field, VmNet& net, AddressPool* pool) {
  if (pool == nullptr) {
    return fail({Code::kFailedPrecondition, "NET_POOL"}, "%s.automatic: this daemon has no pool",
                field.c_str());
  }
  net.lease = TRY(pool->take());
  net.view.guest = GuestNetwork{
      .address = net.lease.guest(), .gateway = net.lease.host().address, .nameservers = {}};
  if (!net.view.user_mode) {
    net.view.host_address = net.lease.host();
  } else {
    // passt asks those that the host asks.
    net.view.guest->nameservers = {net.lease.host().address};
  }
  return {};
}

Result<Fd> open_device(const std::string& field, const NetSpec& spec, VmNet& net) {
  OpenTap tap = TRY(open_tap(field, {.name = spec.tap,
                                     .network_namespace = spec.network_namespace,
                                     .bridge = spec.bridge,
                                     .host_address = net.view.host_address,
                                     .mtu = spec.mtu ? spec.mtu : spec.saved_mtu}));
  net.view.tap = tap.name;
  net.view.mtu = tap.mtu;
  return std::move(tap.file);
}

Result<Fd> start_passt(const std::string& field, const NetSpec& spec, const std::string& program,
                       VmNet& net) {
  net.view.mtu = spec.mtu.value_or(spec.saved_mtu.value_or(kUserModeMtu));
  Fd socket;
  net.passt = TRY(Passt::start(field, program,
                               {.address = net.view.guest->address,
                                .gateway = net.view.guest->gateway.value_or(0),
                                .mtu = net.view.mtu,
                                .tcp_ports = net.view.tcp_ports},
                               socket));
  return socket;
}

/// For what was asked for, on this host.
Result<bool> takes_user_mode(const std::string& field, const NetSpec& spec, const NetHost& host) {
  if (spec.user_mode && host.passt.empty()) {
    return fail({Code::kFailedPrecondition, "NET_USER_MODE"}, "%s.user_mode: %s", field.c_str(),
                can_make_devices() ? "this daemon makes devices: ask for `automatic`"
                                   : "there is no passt on this host (Debian's package passt)");
  }
  const bool user_mode = spec.user_mode || (spec.automatic && !host.passt.empty());
  if (!user_mode && !spec.tcp_ports.empty()) {
    return fail({Code::kFailedPrecondition, "NET_PORTS"},
                "%s.tcp_ports: the guest has an address that the host reaches; only networks in "
                "user mode forward ports",
                field.c_str());
  }
  return user_mode;
}

}  // namespace

Result<OpenNets> open_nets(const std::vector<NetSpec>& specs, const NetHost& host) {
  OpenNets open;
  for (size_t i = 0; i < specs.size(); ++i) {
    const NetSpec& spec = specs[i];
    const std::string field = net_field(i);
    const bool user_mode = TRY(takes_user_mode(field, spec, host));
    VmNet net{.view = {.tap = spec.tap,
                       .network_namespace = spec.network_namespace,
                       .bridge = spec.bridge,
                       .host_address = spec.host_address,
                       .mac = spec.mac ? *spec.mac : random_mac(),
                       .guest = spec.guest,
                       .automatic = spec.automatic,
                       .user_mode = user_mode,
                       .tcp_ports = spec.tcp_ports},
              .lease = {}};
    if (spec.automatic || (user_mode && !spec.guest)) {
      TRY(lease_addresses(field, net, host.pool));
    }
    open.files.push_back(user_mode ? TRY(start_passt(field, spec, host.passt, net))
                                   : TRY(open_device(field, spec, net)));
    open.nets.push_back(std::move(net));
  }
  return open;
}

}  // namespace mayfly::daemon
