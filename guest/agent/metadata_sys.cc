// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/metadata_sys.h"

#include "base/log.h"

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <string_view>
#include <utility>

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

namespace mayfly::guest {
namespace {

constexpr uint32_t kAddress = 0xa9fe'a9fe;  // 169.254.169.254
constexpr uint16_t kPort = 80;
constexpr const char* kLoopback = "lo";
// The label of our address: what else the device has is left alone.
constexpr const char* kLabel = "lo:mayfly";
// In the abstract name space: it needs no file system, and goes with its socket.
constexpr std::string_view kUnixName{"\0mayfly-metadata", 16};
constexpr int kBacklog = 64;

const Failure kFailed{Code::kUnavailable, "METADATA"};

sockaddr_in internet(uint32_t address, uint16_t port) {
  sockaddr_in in = {};
  in.sin_family = AF_INET;
  in.sin_addr.s_addr = htonl(address);
  in.sin_port = htons(port);
  return in;
}

ifreq request_for(const char* name) {
  ifreq request = {};
  std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  return request;
}

void put(uint32_t address, sockaddr& out) {
  const sockaddr_in in = internet(address, 0);
  static_assert(sizeof(in) == sizeof(out));
  // SAFETY: both have the same size.
  std::memcpy(&out, &in, sizeof(out));
}

// SAFETY (of all ioctls here): each of these requests takes an ifreq.
Result<> add_address(FdRef socket) {
  ifreq request = request_for(kLabel);
  put(kAddress, request.ifr_addr);
  if (::ioctl(socket.number(), SIOCSIFADDR, &request) != 0) {
    return fail_errno(kFailed, errno, "metadata: add 169.254.169.254 to %s", kLoopback);
  }
  request = request_for(kLabel);
  put(~uint32_t{0}, request.ifr_netmask);
  if (::ioctl(socket.number(), SIOCSIFNETMASK, &request) != 0) {
    return fail_errno(kFailed, errno, "metadata: the netmask of 169.254.169.254");
  }
  return {};
}

void remove_address(FdRef socket) {
  // An address with a label goes when that is taken down.
  ifreq request = request_for(kLabel);
  if (::ioctl(socket.number(), SIOCGIFFLAGS, &request) != 0) return;
  request.ifr_flags = static_cast<short>(request.ifr_flags & ~IFF_UP);
  (void)::ioctl(socket.number(), SIOCSIFFLAGS, &request);
}

class SocketListener final : public Listener {
 public:
  SocketListener(Fd fd, bool has_address) : fd_(std::move(fd)), has_address_(has_address) {}
  ~SocketListener() override {
    if (has_address_) remove_address(fd_.ref());
  }
  FdRef fd() const override { return fd_.ref(); }

  std::optional<Fd> accept() override {
    for (;;) {
      Fd connection(::accept4(fd_.number(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!connection.valid() && (errno == ECONNABORTED || errno == EINTR)) continue;
      if (!connection.valid()) return std::nullopt;
      return connection;
    }
  }

 private:
  Fd fd_;
  bool has_address_;
};

Result<std::unique_ptr<Listener>> listen_on_tcp() {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_errno(kFailed, errno, "metadata: socket");
  const int on = 1;
  const int one_hop = 1;
  ifreq loopback = request_for(kLoopback);
  // What comes in by another device, as from a neighbour that sends for our address, is not for us.
  if (::setsockopt(fd.number(), SOL_SOCKET, SO_BINDTODEVICE, &loopback, sizeof(loopback)) != 0 ||
      ::setsockopt(fd.number(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      ::setsockopt(fd.number(), IPPROTO_IP, IP_TTL, &one_hop, sizeof(one_hop)) != 0) {
    return fail_errno(kFailed, errno, "metadata: the socket's options");
  }
  TRY(add_address(fd.ref()));
  auto listener = std::make_unique<SocketListener>(std::move(fd), true);
  const sockaddr_in address = internet(kAddress, kPort);
  const int number = listener->fd().number();
  // SAFETY: a sockaddr_in is passed as the sockaddr that bind(2) takes, with its size.
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  if (::bind(number, generic, sizeof(address)) != 0 || ::listen(number, kBacklog) != 0) {
    return fail_errno(kFailed, errno, "metadata: listen on 169.254.169.254 port %u", kPort);
  }
  return listener;
}

struct UnixAddress {
  sockaddr_un address = {};
  socklen_t size = 0;

  UnixAddress() {
    address.sun_family = AF_UNIX;
    // SAFETY: 16 of the 108 bytes that are there.
    std::memcpy(address.sun_path, kUnixName.data(), kUnixName.size());
    size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + kUnixName.size());
  }
  const sockaddr* generic() const {
    // SAFETY: a sockaddr_un is passed as the sockaddr that socket calls take, with its size.
    return reinterpret_cast<const sockaddr*>(&address);
  }
};

Result<std::unique_ptr<Listener>> listen_on_unix() {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_errno(kFailed, errno, "metadata: socket");
  const UnixAddress address;
  if (::bind(fd.number(), address.generic(), address.size) != 0 ||
      ::listen(fd.number(), kBacklog) != 0) {
    return fail_errno(kFailed, errno, "metadata: listen on @mayfly-metadata");
  }
  return std::make_unique<SocketListener>(std::move(fd), false);
}

}  // namespace

std::vector<std::unique_ptr<Listener>> listen_for_metadata() {
  std::vector<std::unique_ptr<Listener>> listeners;
  for (const auto listen : {listen_on_tcp, listen_on_unix}) {
    auto listener = listen();
    if (listener) {
      listeners.push_back(*std::move(listener));
    } else {
      log(LogLevel::kWarning, "%s", listener.error().describe().c_str());
    }
  }
  return listeners;
}

Result<Fd> connect_to_metadata() {
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return fail_errno(kFailed, errno, "metadata: socket");
  const UnixAddress address;
  if (::connect(fd.number(), address.generic(), address.size) == 0) return fd;
  return fail_errno(kFailed, errno, "metadata: this guest has none (@mayfly-metadata)");
}

}  // namespace mayfly::guest
