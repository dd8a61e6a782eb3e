// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/server.h"

#include "base/log.h"
#include "base/send_descriptor_sys.h"

#include <cerrno>
#include <cstring>

#include <poll.h>
#include <sys/socket.h>

namespace mayfly::vmm {
namespace {

constexpr uint32_t kListenerOp = 0;
constexpr uint32_t kConnectionOp = 1;

// The descriptors of a packet, owned from the moment the kernel made them ours.
std::vector<Fd> take_descriptors(msghdr& header) {
  std::vector<Fd> fds;
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int number = -1;
      // SAFETY: the kernel wrote `count` descriptors behind the header; they may be unaligned.
      std::memcpy(&number, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
      fds.emplace_back(number);
    }
  }
  return fds;
}

}  // namespace

Server::Server(Loop& loop, Fd listener)
    : loop_(loop),
      listener_(std::move(listener)),
      buffer_(std::make_unique_for_overwrite<std::byte[]>(kMaxPacketBytes)) {}

Result<std::unique_ptr<Server>> Server::create(Loop& loop, Fd listener) {
  int listens = 0;
  socklen_t size = sizeof(listens);
  // SAFETY: the kernel writes at most `size` bytes.
  const int got = ::getsockopt(listener.number(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &size);
  if (got != 0 || listens == 0) {
    return fail({Code::kInvalidArgument, "CONTROL_SOCKET"},
                "--control-fd: descriptor %d is not a listening socket", listener.number());
  }
  TRY(set_nonblocking(listener.ref(), true));
  std::unique_ptr<Server> server(new Server(loop, std::move(listener)));
  server->id_ = TRY(loop.add_client(*server));
  server->listener_slot_ = TRY(loop.add_file(server->listener_.ref()));
  TRY(loop.poll(server->id_, server->listener_slot_, POLLIN, kListenerOp));
  return server;
}

Server::~Server() {
  if (connection_slot_.valid()) loop_.remove_file(connection_slot_);
  if (listener_slot_.valid()) loop_.remove_file(listener_slot_);
  loop_.remove_client(id_);
}

void Server::on_completion(uint32_t op, int32_t) {
  if (op == kListenerOp) can_accept_ = true;
  if (op == kConnectionOp) can_receive_ = true;
}

void Server::accept() {
  can_accept_ = false;
  const int number = ::accept4(listener_.number(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
  if (number < 0) return;
  connection_ = Fd(number);
  can_receive_ = true;
  const std::lock_guard held(loop_.lock());
  if (const Result<FileSlot> slot =
          loop_.watch(id_, connection_.ref(), POLLIN | POLLRDHUP, kConnectionOp)) {
    connection_slot_ = *slot;
    return;
  }
  log(LogLevel::kError, "control: cannot watch the daemon's connection");
  connection_.reset();
}

void Server::disconnect() {
  const std::lock_guard held(loop_.lock());
  loop_.remove_file(connection_slot_);
  connection_slot_ = {};
  connection_.reset();
  disconnected_ = true;
  can_accept_ = true;  // one may have been waiting
}

bool Server::take_disconnect() { return std::exchange(disconnected_, false); }

std::optional<Server::Packet> Server::receive() {
  iovec bytes{buffer_.get(), kMaxPacketBytes};
  alignas(cmsghdr) char ancillary[CMSG_SPACE(kMaxDescriptors * sizeof(int))];
  msghdr header = {};
  header.msg_iov = &bytes;
  header.msg_iovlen = 1;
  header.msg_control = ancillary;
  header.msg_controllen = sizeof(ancillary);
  ssize_t size = 0;
  do {
    // SAFETY: both buffers outlive the call and are as large as the header says.
    size = ::recvmsg(connection_.number(), &header, MSG_CMSG_CLOEXEC);
  } while (size < 0 && errno == EINTR);
  if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
    can_receive_ = false;
    return std::nullopt;
  }
  if (size <= 0) {
    disconnect();
    return std::nullopt;
  }
  std::vector<Fd> descriptors = take_descriptors(header);
  if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    log(LogLevel::kError, "control: a packet over %zu bytes or %zu descriptors", kMaxPacketBytes,
        kMaxDescriptors);
    disconnect();
    return std::nullopt;
  }
  return Packet{static_cast<size_t>(size), std::move(descriptors)};
}

std::optional<Request> Server::next() {
  if (!connection_.valid() && can_accept_) accept();
  while (connection_.valid() && can_receive_) {
    std::optional<Packet> packet = receive();
    if (!packet) continue;
    auto request =
        parse_request(std::span(buffer_.get(), packet->size), std::move(packet->descriptors));
    if (request) return *std::move(request);
    reply(request.error().id, std::unexpected(std::move(request.error().error)));
  }
  return std::nullopt;
}

void Server::reply(uint64_t id, const Result<Answer>& result) {
  const Memory* memory = result ? std::get_if<Memory>(&*result) : nullptr;
  send(make_reply(id, result), memory != nullptr ? memory->file : FdRef());
}

void Server::send(const std::string& packet, FdRef descriptor) {
  if (!connection_.valid()) return;
  ssize_t sent = 0;
  do {
    sent =
        descriptor.valid()
            ? send_with_descriptor(connection_.ref(), std::as_bytes(std::span(packet)), descriptor)
            : ::send(connection_.number(), packet.data(), packet.size(), MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) disconnect();
}

}  // namespace mayfly::vmm
