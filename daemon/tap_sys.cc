// SPDX-License-Identifier: Apache-2.0
#include "daemon/tap_sys.h"

#include "base/log.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

// The kernel puts a number in place of %d.
constexpr const char* kOwnNames = "mayfly%d";
constexpr short kFlags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;

ifreq request_for(const std::string& name) {
  ifreq request = {};
  // The name is no longer than the kernel's limit, which leaves room for the end.
  name.copy(request.ifr_name, IFNAMSIZ - 1);
  return request;
}

sockaddr address_of(uint32_t ip4) {
  sockaddr_in in = {};
  in.sin_family = AF_INET;
  in.sin_addr.s_addr = htonl(ip4);
  sockaddr out = {};
  // SAFETY: a sockaddr_in fits into a sockaddr.
  static_assert(sizeof(in) == sizeof(out));
  std::memcpy(&out, &in, sizeof(out));
  return out;
}

// One device's settings, by the socket's network namespace.
class Device {
 public:
  Device(std::string field, std::string name, Fd socket)
      : field_(std::move(field)), name_(std::move(name)), socket_(std::move(socket)) {}

  bool exists() const {
    ifreq request = request_for(name_);
    return ask(SIOCGIFINDEX, request);
  }

  Result<uint32_t> mtu() const {
    ifreq request = request_for(name_);
    if (!ask(SIOCGIFMTU, request)) return failed("NET_TAP", "read the MTU of");
    return static_cast<uint32_t>(request.ifr_mtu);
  }

  Result<> set_mtu(uint32_t mtu) const {
    ifreq request = request_for(name_);
    request.ifr_mtu = static_cast<int>(mtu);
    if (!ask(SIOCSIFMTU, request)) return failed("NET_MTU", "set the MTU of");
    return {};
  }

  // What a guest says must not change how this host routes.
  Result<> forbid_ipv6() const {
    const std::string path = "/proc/sys/net/ipv6/conf/" + name_ + "/disable_ipv6";
    const auto file = Fd::open(path.c_str(), O_WRONLY);
    if (!file && file.error().os_errno() == ENOENT) return {};
    if (!file || !write_all(file->ref(), std::as_bytes(std::span("1", 1)))) {
      return failed("NET_TAP", "switch IPv6 off on");
    }
    return {};
  }

  Result<> set_address(const Ip4Prefix& prefix) const {
    ifreq request = request_for(name_);
    request.ifr_addr = address_of(prefix.address);
    if (!ask(SIOCSIFADDR, request)) return failed("NET_ADDRESS", "set the address of");
    request = request_for(name_);
    request.ifr_netmask = address_of(prefix.mask());
    if (!ask(SIOCSIFNETMASK, request)) return failed("NET_ADDRESS", "set the netmask of");
    return {};
  }

  Result<> join(const std::string& bridge) const {
    ifreq request = request_for(name_);
    if (!ask(SIOCGIFINDEX, request)) return failed("NET_TAP", "find");
    ifreq to = request_for(bridge);
    to.ifr_ifindex = request.ifr_ifindex;
    if (ask(SIOCBRADDIF, to)) return {};
    return fail_errno({Code::kFailedPrecondition, "NET_BRIDGE"}, errno,
                      "%s.bridge: %s does not take %s", field_.c_str(), bridge.c_str(),
                      name_.c_str());
  }

  Result<> bring_up() const {
    ifreq request = request_for(name_);
    if (!ask(SIOCGIFFLAGS, request)) return failed("NET_TAP", "find");
    request.ifr_flags = static_cast<short>(request.ifr_flags | IFF_UP);
    if (!ask(SIOCSIFFLAGS, request)) return failed("NET_TAP", "bring up");
    return {};
  }

 private:
  bool ask(unsigned long what, ifreq& request) const {
    // SAFETY: each of these requests takes an ifreq.
    return ::ioctl(socket_.number(), what, &request) == 0;
  }
  std::unexpected<Error> failed(const char* reason, const char* what) const {
    return fail_errno({Code::kFailedPrecondition, reason}, errno, "%s: cannot %s the tap device %s",
                      field_.c_str(), what, name_.c_str());
  }

  std::string field_;
  std::string name_;
  Fd socket_;
};

std::unexpected<Error> not_attached(const std::string& field, const std::string& name, bool exists,
                                    int os_errno) {
  if (os_errno == EPERM) {
    return fail({Code::kPermissionDenied, "NET_PRIVILEGE"},
                "%s: the tap device %s %s; run the daemon as root, install passt and ask for "
                "`automatic`, or have root make one for its user: ip tuntap add NAME mode tap "
                "vnet_hdr user USER",
                field.c_str(), exists ? name.c_str() : "",
                exists ? "is not this user's" : "may not be made");
  }
  if (os_errno == EBUSY) {
    return fail({Code::kFailedPrecondition, "NET_IN_USE"},
                "%s.tap: %s is in use by another VM or program", field.c_str(), name.c_str());
  }
  return fail_errno({Code::kFailedPrecondition, "NET_TAP"}, os_errno,
                    "%s.tap: %s cannot be attached to (is it a tap device, of one queue?)",
                    field.c_str(), name.c_str());
}

Result<> set_up(const Device& device, const TapPlan& plan) {
  TRY(device.forbid_ipv6());
  if (plan.mtu) TRY(device.set_mtu(*plan.mtu));
  if (plan.host_address) TRY(device.set_address(*plan.host_address));
  if (!plan.bridge.empty()) TRY(device.join(plan.bridge));
  return device.bring_up();
}

Result<OpenTap> open_here(const std::string& field, const TapPlan& plan) {
  Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail_errno({Code::kInternal, "NET_SOCKET"}, errno, "socket");
  auto file = Fd::open("/dev/net/tun", O_RDWR | O_NONBLOCK);
  if (!file) {
    return fail_errno({Code::kFailedPrecondition, "NET_TAP"}, file.error().os_errno(),
                      "%s: cannot open /dev/net/tun (`mayfly doctor` says more)", field.c_str());
  }
  const std::string wanted = plan.name.empty() ? kOwnNames : plan.name;
  const bool exists =
      !plan.name.empty() && Device(field, wanted, TRY(Fd::duplicate(socket.ref()))).exists();
  if (exists && (!plan.bridge.empty() || plan.host_address)) {
    return fail({Code::kFailedPrecondition, "NET_TAP"},
                "%s.%s: the tap device %s is there already, and is taken as it is", field.c_str(),
                plan.bridge.empty() ? "host_address" : "bridge", wanted.c_str());
  }
  ifreq request = request_for(wanted);
  request.ifr_flags = kFlags;
  // SAFETY: TUNSETIFF takes an ifreq, and fills in the name.
  if (::ioctl(file->number(), TUNSETIFF, &request) != 0) {
    return not_attached(field, wanted, exists, errno);
  }
  OpenTap tap{.file = *std::move(file), .name = request.ifr_name, .mtu = 0, .made = !exists};
  const Device device(field, tap.name, std::move(socket));
  if (tap.made) TRY(set_up(device, plan));
  tap.mtu = TRY(device.mtu());
  if (plan.mtu && tap.mtu != *plan.mtu) {
    return fail({Code::kFailedPrecondition, "NET_MTU"}, "%s.mtu: %u, the tap device %s has %u",
                field.c_str(), *plan.mtu, tap.name.c_str(), tap.mtu);
  }
  return tap;
}

}  // namespace

bool can_make_devices() {
  __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
  __user_cap_data_struct sets[2] = {};
  // SAFETY: version 3 writes two of the structs.
  if (::syscall(SYS_capget, &header, sets) != 0) return false;
  return (sets[CAP_NET_ADMIN / 32].effective & 1u << CAP_NET_ADMIN % 32) != 0;
}

Result<OpenTap> open_tap(const std::string& field, const TapPlan& plan) {
  if (plan.network_namespace.empty()) return open_here(field, plan);
  const auto there = Fd::open(plan.network_namespace.c_str(), O_RDONLY);
  if (!there) {
    return fail_errno({Code::kNotFound, "NET_NAMESPACE"}, there.error().os_errno(),
                      "%s.network_namespace: cannot open %s", field.c_str(),
                      plan.network_namespace.c_str());
  }
  Result<OpenTap> opened = OpenTap();
  // A thread that is somewhere else ends there.
  std::thread([&] {
    if (::setns(there->number(), CLONE_NEWNET) == 0) {
      opened = open_here(field, plan);
      return;
    }
    opened = fail_errno({Code::kFailedPrecondition, "NET_NAMESPACE"}, errno,
                        "%s.network_namespace: cannot enter %s", field.c_str(),
                        plan.network_namespace.c_str());
  }).join();
  return opened;
}

}  // namespace mayfly::daemon
