// SPDX-License-Identifier: Apache-2.0
#include "tests/security/attempt.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

namespace mayfly::escape {
namespace {

long make_socket(int family, int type, int protocol = 0) {
  return ::syscall(SYS_socket, family, type, protocol);
}

sockaddr_in local_address(uint16_t port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

Outcome connect_to_host(World& world) {
  const long socket = make_socket(AF_INET, SOCK_STREAM);
  if (socket < 0) return judge("socket", -1);
  const sockaddr_in address = local_address(world.targets.tcp_port);
  return judge("connect", ::syscall(SYS_connect, socket, &address, sizeof(address)));
}

Outcome send_datagram(World& world) {
  const long socket = make_socket(AF_INET, SOCK_DGRAM);
  if (socket < 0) return judge("socket", -1);
  const sockaddr_in address = local_address(world.targets.tcp_port);
  return judge("sendto", ::syscall(SYS_sendto, socket, "x", 1, 0, &address, sizeof(address)));
}

// Listening alone is nothing where nobody can connect.
Outcome listen_on_host(World&) {
  const long socket = make_socket(AF_INET, SOCK_STREAM);
  if (socket < 0) return judge("socket", -1);
  sockaddr_in address = local_address(0);
  socklen_t size = sizeof(address);
  if (::syscall(SYS_bind, socket, &address, size) < 0) return judge("bind", -1);
  if (::syscall(SYS_listen, socket, 1) < 0) return judge("listen", -1);
  if (::syscall(SYS_getsockname, socket, &address, &size) < 0) return judge("getsockname", -1);
  return judge("connect",
               ::syscall(SYS_connect, make_socket(AF_INET, SOCK_STREAM), &address, size));
}

Outcome connect_by_name(const char* name, bool is_abstract) {
  const long socket = make_socket(AF_UNIX, SOCK_STREAM);
  if (socket < 0) return judge("socket", -1);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path + (is_abstract ? 1 : 0), name, sizeof(address.sun_path) - 2);
  const size_t size = offsetof(sockaddr_un, sun_path) + (is_abstract ? 1 : 0) + std::strlen(name);
  return judge("connect", ::syscall(SYS_connect, socket, &address, size));
}
Outcome connect_abstract(World& world) {
  return connect_by_name(world.targets.abstract_name, true);
}
Outcome connect_path(World& world) { return connect_by_name(world.targets.host_socket, false); }

// Where other jails share the network namespace, they could meet at such a name.
Outcome listen_abstract(World&) {
  const long socket = make_socket(AF_UNIX, SOCK_STREAM);
  if (socket < 0) return judge("socket", -1);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (::syscall(SYS_bind, socket, &address, sizeof(sa_family_t)) < 0) return judge("bind", -1);
  return judge("listen", ::syscall(SYS_listen, socket, 1));
}

Outcome raise_interface(World&) {
  const long socket = make_socket(AF_INET, SOCK_DGRAM);
  if (socket < 0) return judge("socket", -1);
  ifreq request = {};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  return judge("ioctl SIOCSIFFLAGS", ::syscall(SYS_ioctl, socket, SIOCSIFFLAGS, &request));
}

Outcome open_family(int family, int type, int protocol = 0) {
  return judge("socket", make_socket(family, type, protocol));
}
Outcome raw_socket(World&) { return open_family(AF_INET, SOCK_RAW, IPPROTO_ICMP); }
Outcome packet_socket(World&) { return open_family(AF_PACKET, SOCK_RAW); }
Outcome netlink_socket(World&) { return open_family(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE); }
Outcome audit_socket(World&) { return open_family(AF_NETLINK, SOCK_RAW, NETLINK_KOBJECT_UEVENT); }
Outcome vsock_socket(World&) { return open_family(AF_VSOCK, SOCK_STREAM); }
Outcome cipher_socket(World&) { return open_family(AF_ALG, SOCK_SEQPACKET); }
Outcome socket_pair(World&) {
  int ends[2] = {};
  return judge("socketpair", ::syscall(SYS_socketpair, AF_UNIX, SOCK_STREAM, 0, ends));
}

Outcome shared_segment(World& world) {
  const long segment = ::syscall(SYS_shmget, world.targets.ipc_key, 0, 0);
  if (segment < 0) return judge("shmget", -1);
  const long address = ::syscall(SYS_shmat, segment, nullptr, 0);
  return address == -1 ? judge("shmat", -1) : escaped();
}
Outcome message_queue(World& world) {
  const long queue = ::syscall(SYS_msgget, world.targets.ipc_key, 0);
  if (queue < 0) return judge("msgget", -1);
  const struct {
    long type;
    char text[8];
  } message = {1, "hello"};
  return judge("msgsnd", ::syscall(SYS_msgsnd, queue, &message, sizeof(message.text), IPC_NOWAIT));
}
Outcome semaphores(World& world) {
  return judge("semget", ::syscall(SYS_semget, world.targets.ipc_key, 0, 0));
}
Outcome posix_queue(World& world) {
  return judge("mq_open", ::syscall(SYS_mq_open, world.targets.queue_name, O_RDWR, 0, nullptr));
}

constexpr Attempt kAttempts[] = {
    {"connect-to-host", "a service that trusts the host's own address", kSeccomp | kNetwork,
     connect_to_host},
    {"send-datagram", "the same without a connection", kSeccomp | kNetwork, send_datagram},
    {"listen-on-host", "the connections of others", kSeccomp | kNetwork, listen_on_host},
    {"connect-abstract", "a service of the host without a path", kSeccomp | kNetwork,
     connect_abstract},
    {"connect-path", "a service of the host", kSeccomp | kRoot, connect_path},
    {"listen-abstract", "a meeting point with other jails", kSeccomp, listen_abstract},
    {"raise-interface", "a network where there was none", kSeccomp | kIds, raise_interface},
    {"raw-socket", "any packet", kSeccomp | kIds, raw_socket},
    {"packet-socket", "others' packets", kSeccomp | kIds, packet_socket},
    {"netlink-socket", "the network's settings", kSeccomp, netlink_socket},
    {"device-events-socket", "what devices come and go", kSeccomp, audit_socket},
    {"vsock-socket", "the machine that this host may be a guest of", kSeccomp, vsock_socket},
    {"cipher-socket", "the kernel's ciphers", kSeccomp, cipher_socket},
    {"socket-pair", "a socket", kSeccomp, socket_pair},
    {"shared-segment", "memory of the host's programs", kSeccomp | kIpc, shared_segment},
    {"message-queue", "messages of the host's programs", kSeccomp | kIpc, message_queue},
    {"semaphores", "locks of the host's programs", kSeccomp | kIpc, semaphores},
    {"posix-queue", "messages of the host's programs", kSeccomp | kIpc, posix_queue},
};

}  // namespace

std::span<const Attempt> network_attempts() { return kAttempts; }

}  // namespace mayfly::escape
