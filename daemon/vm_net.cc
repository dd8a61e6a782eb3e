// SPDX-License-Identifier: Apache-2.0
#include "daemon/vm_net.h"

#include "daemon/tap_sys.h"

namespace mayfly::daemon {

namespace {

Result<> lease_addresses(const std::string& field, VmNet& net, AddressPool* pool) {
  if (pool == nullptr) {
    return fail({Code::kFailedPrecondition, "NET_POOL"}, "%s.automatic: this daemon has no pool",
                field.c_str());
  }
  net.lease = TRY(pool->take());
  net.view.host_address = net.lease.host();
  net.view.guest = GuestNetwork{
      .address = net.lease.guest(), .gateway = net.lease.host().address, .nameservers = {}};
  return {};
}

}  // namespace

Result<OpenNets> open_nets(const std::vector<NetSpec>& specs, AddressPool* pool) {
  OpenNets open;
  for (size_t i = 0; i < specs.size(); ++i) {
    const NetSpec& spec = specs[i];
    const std::string field = net_field(i);
    VmNet net{.view = {.tap = spec.tap,
                       .network_namespace = spec.network_namespace,
                       .bridge = spec.bridge,
                       .host_address = spec.host_address,
                       .mac = spec.mac ? *spec.mac : random_mac(),
                       .guest = spec.guest,
                       .automatic = spec.automatic},
              .lease = {}};
    if (spec.automatic) TRY(lease_addresses(field, net, pool));
    OpenTap tap = TRY(open_tap(field, {.name = spec.tap,
                                       .network_namespace = spec.network_namespace,
                                       .bridge = spec.bridge,
                                       .host_address = net.view.host_address,
                                       .mtu = spec.mtu ? spec.mtu : spec.saved_mtu}));
    net.view.tap = tap.name;
    net.view.mtu = tap.mtu;
    open.nets.push_back(std::move(net));
    open.taps.push_back(std::move(tap.file));
  }
  return open;
}

}  // namespace mayfly::daemon
