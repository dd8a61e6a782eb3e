// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/vsock_sys.h"

#include <cerrno>
#include <utility>

#include <linux/vm_sockets.h>
#include <sys/socket.h>

namespace mayfly::guest {
namespace {

constexpr int kBacklog = 64;

sockaddr_vm address_of(uint32_t cid, uint32_t port) {
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = cid;
  address.svm_port = port;
  return address;
}

Result<Fd> stream_socket() {
  Fd fd(::socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return fail_errno({Code::kUnavailable, "VSOCK"}, errno, "vsock socket");
  return fd;
}

class VsockListener final : public Listener {
 public:
  explicit VsockListener(Fd fd) : fd_(std::move(fd)) {}
  FdRef fd() const override { return fd_.ref(); }

  std::optional<Fd> accept() override {
    for (;;) {
      sockaddr_vm peer{};
      socklen_t size = sizeof(peer);
      // SAFETY: a sockaddr_vm is what this family fills in, and `size` bounds it.
      Fd connection(::accept4(fd_.number(), reinterpret_cast<sockaddr*>(&peer), &size,
                              SOCK_CLOEXEC | SOCK_NONBLOCK));
      if (!connection.valid() && (errno == ECONNABORTED || errno == EINTR)) continue;
      if (!connection.valid()) return std::nullopt;
      if (peer.svm_cid == VMADDR_CID_HOST) return connection;
    }
  }

 private:
  Fd fd_;
};

}  // namespace

Result<Fd> connect_to_host(uint32_t port) {
  Fd fd = TRY(stream_socket());
  const sockaddr_vm address = address_of(VMADDR_CID_HOST, port);
  // SAFETY: a sockaddr_vm is passed as the sockaddr that connect(2) takes, with its size.
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  if (::connect(fd.number(), generic, sizeof(address)) != 0 && errno != EINPROGRESS) {
    return fail_errno({Code::kUnavailable, "VSOCK"}, errno, "connect to host port %u", port);
  }
  return fd;
}

Result<std::unique_ptr<Listener>> listen_for_host(uint32_t port) {
  Fd fd = TRY(stream_socket());
  const sockaddr_vm address = address_of(VMADDR_CID_ANY, port);
  // SAFETY: a sockaddr_vm is passed as the sockaddr that bind(2) takes, with its size.
  const auto* generic = reinterpret_cast<const sockaddr*>(&address);
  if (::bind(fd.number(), generic, sizeof(address)) != 0 || ::listen(fd.number(), kBacklog) != 0) {
    return fail_errno({Code::kUnavailable, "VSOCK"}, errno, "listen on guest port %u", port);
  }
  return std::make_unique<VsockListener>(std::move(fd));
}

}  // namespace mayfly::guest
