// SPDX-License-Identifier: Apache-2.0
#include "daemon/listener.h"

#include "base/log.h"
#include "daemon/unix_socket_sys.h"

#include <cerrno>

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

constexpr int kBacklog = 128;
constexpr int kMaxAcceptsAtOnce = 64;

Result<> clear_the_way(const std::string& path) {
  struct stat status;
  if (::lstat(path.c_str(), &status) != 0) return {};
  if (!S_ISSOCK(status.st_mode)) {
    return fail({Code::kAlreadyExists, "SOCKET_PATH"}, "--socket: %s exists and is not a socket",
                path.c_str());
  }
  auto probe = connect_unix(path, SOCK_STREAM);
  if (probe || probe.error().os_errno() != ECONNREFUSED) {
    return fail({Code::kAlreadyExists, "SOCKET_IN_USE"},
                "--socket: %s is in use by a running process", path.c_str());
  }
  ::unlink(path.c_str());  // Left by a daemon that was killed.
  return {};
}

}  // namespace

Result<std::unique_ptr<Listener>> Listener::create(Reactor& reactor, const std::string& path,
                                                   Hook accepted) {
  TRY(check_socket_path("--socket", path));
  TRY(clear_the_way(path));
  Fd socket = TRY(listen_unix(path, SOCK_STREAM | SOCK_NONBLOCK, kBacklog));
  std::unique_ptr<Listener> listener(new Listener(path, std::move(socket), std::move(accepted)));
  if (::chmod(path.c_str(), 0600) != 0) {
    return fail_errno({Code::kFailedPrecondition, "SOCKET_MODE"}, errno, "chmod %s", path.c_str());
  }
  listener->watch_ =
      TRY(reactor.watch(listener->socket_.ref(), EPOLLIN, [raw = listener.get()](uint32_t) {
        raw->on_readable();
        return WatchVerdict::kKeep;
      }));
  return listener;
}

Listener::Listener(std::string path, Fd socket, Hook accepted)
    : path_(std::move(path)), socket_(std::move(socket)), accepted_(std::move(accepted)) {}

Listener::~Listener() {
  watch_.reset();
  ::unlink(path_.c_str());
}

void Listener::on_readable() {
  for (int i = 0; i < kMaxAcceptsAtOnce; ++i) {
    Fd connection(::accept4(socket_.number(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!connection.valid()) return;
    const auto uid = peer_uid(connection.ref());
    if (!uid || (*uid != ::geteuid() && *uid != 0)) {
      log(LogLevel::kWarning, "refused a connection of user %u", uid ? *uid : 0u);
      continue;
    }
    accepted_(std::move(connection));
  }
}

}  // namespace mayfly::daemon
