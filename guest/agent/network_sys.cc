// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/network_sys.h"

#include "base/fd.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace mayfly::guest {
namespace {

// Each has its number among all virtio devices, in the order of their places.
constexpr const char* kDriver = "/sys/bus/virtio/drivers/virtio_net";
constexpr std::string_view kDevicePrefix = "virtio";
constexpr const char* kNames = "/etc/resolv.conf";

std::vector<std::string> names_in(const std::string& path) {
  std::vector<std::string> names;
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(::opendir(path.c_str()), ::closedir);
  if (!directory) return names;
  while (const dirent* entry = ::readdir(directory.get())) {
    if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
  }
  return names;
}

std::vector<std::string> network_devices() {
  std::vector<std::pair<unsigned, std::string>> found;
  for (const std::string& device : names_in(kDriver)) {
    unsigned number = 0;
    if (!device.starts_with(kDevicePrefix)) continue;
    const std::string_view digits = std::string_view(device).substr(kDevicePrefix.size());
    if (std::from_chars(digits.begin(), digits.end(), number).ec != std::errc()) continue;
    const auto names = names_in(std::string(kDriver) + "/" + device + "/net");
    if (!names.empty()) found.emplace_back(number, names.front());
  }
  std::ranges::sort(found);
  std::vector<std::string> names;
  for (auto& [number, name] : found) names.push_back(std::move(name));
  return names;
}

sockaddr internet(uint32_t address) {
  sockaddr_in in = {};
  in.sin_family = AF_INET;
  in.sin_addr.s_addr = htonl(address);
  sockaddr out = {};
  static_assert(sizeof(in) == sizeof(out));
  // SAFETY: both have the same size.
  std::memcpy(&out, &in, sizeof(out));
  return out;
}

class Setter {
 public:
  explicit Setter(FdRef socket) : socket_(socket) {}

  Result<> set(const std::string& name, const Interface& wanted) {
    TRY(set_up(name, false));
    TRY(set_mac(name, wanted));
    TRY(set_up(name, true));
    if (wanted.address == 0) return {};
    ifreq request = request_for(name);
    request.ifr_addr = internet(wanted.address);
    TRY(ask(SIOCSIFADDR, request, "set the address of"));
    request = request_for(name);
    request.ifr_netmask = internet(~uint32_t{0} << (32 - wanted.prefix_bits));
    TRY(ask(SIOCSIFNETMASK, request, "set the netmask of"));
    return wanted.gateway == 0 ? Result<>() : add_gateway(name, wanted.gateway);
  }

 private:
  static ifreq request_for(const std::string& name) {
    ifreq request = {};
    name.copy(request.ifr_name, IFNAMSIZ - 1);
    return request;
  }

  Result<> ask(unsigned long what, ifreq& request, const char* text) {
    // SAFETY: each of these requests takes an ifreq.
    if (::ioctl(socket_.number(), what, &request) == 0) return {};
    return fail_errno({Code::kUnavailable, "NETWORK"}, errno, "network: cannot %s %s", text,
                      request.ifr_name);
  }

  Result<> set_up(const std::string& name, bool up) {
    ifreq request = request_for(name);
    TRY(ask(SIOCGIFFLAGS, request, "find"));
    const int flags = up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP;
    request.ifr_flags = static_cast<short>(flags);
    return ask(SIOCSIFFLAGS, request, up ? "bring up" : "bring down");
  }

  Result<> set_mac(const std::string& name, const Interface& wanted) {
    ifreq request = request_for(name);
    request.ifr_hwaddr.sa_family = ARPHRD_ETHER;
    // SAFETY: six bytes of the fourteen that sa_data has.
    std::memcpy(request.ifr_hwaddr.sa_data, wanted.mac.data(), wanted.mac.size());
    return ask(SIOCSIFHWADDR, request, "set the MAC address of");
  }

  Result<> add_gateway(const std::string& name, uint32_t gateway) {
    std::string device = name;
    rtentry route = {};
    route.rt_dst = internet(0);
    route.rt_genmask = internet(0);
    route.rt_gateway = internet(gateway);
    route.rt_flags = RTF_UP | RTF_GATEWAY;
    route.rt_dev = device.data();
    // SAFETY: SIOCADDRT reads an rtentry and the name that it points to.
    if (::ioctl(socket_.number(), SIOCADDRT, &route) == 0 || errno == EEXIST) return {};
    return fail_errno({Code::kUnavailable, "NETWORK"}, errno,
                      "network: cannot set the gateway of %s", name.c_str());
  }

  FdRef socket_;
};

// A root that cannot be written to says itself who knows names.
Result<> set_nameservers(const Network& network) {
  std::string text;
  for (const Interface& interface : network.interfaces) {
    for (const uint32_t server : interface.nameservers) {
      text += format("nameserver %u.%u.%u.%u\n", server >> 24, server >> 16 & 0xff,
                     server >> 8 & 0xff, server & 0xff);
    }
  }
  if (text.empty()) return {};
  const auto file = Fd::open(kNames, O_WRONLY | O_CREAT | O_TRUNC, 0644);
  if (!file && (file.error().os_errno() == EROFS || file.error().os_errno() == ENOENT)) return {};
  if (!file) return std::unexpected(file.error());
  return write_all(file->ref(), std::as_bytes(std::span(text)));
}

}  // namespace

Result<> set_network(const Network& network) {
  const std::vector<std::string> names = network_devices();
  if (names.size() < network.interfaces.size()) {
    return fail({Code::kUnavailable, "NETWORK"},
                "network: the guest has %zu virtio network devices of %zu (is its driver there?)",
                names.size(), network.interfaces.size());
  }
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return fail_errno({Code::kUnavailable, "NETWORK"}, errno, "network: socket");
  Setter setter(socket.ref());
  for (size_t i = 0; i < network.interfaces.size(); ++i) {
    TRY(setter.set(names[i], network.interfaces[i]));
  }
  return set_nameservers(network);
}

}  // namespace mayfly::guest
