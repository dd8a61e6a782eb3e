// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/server.h"

#include "proto/control.pb.h"

#include <doctest/doctest.h>

#include <cstring>
#include <string>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace mayfly::vmm {
namespace {

struct Fixture {
  Fixture() {
    // An abstract address, nothing to clean up; a new one each time, since a ring that goes away
    // lets go of its files a little later.
    static int count = 0;
    address.sun_family = AF_UNIX;
    const std::string name =
        "mayfly-server-test-" + std::to_string(::getpid()) + "-" + std::to_string(++count);
    name.copy(address.sun_path + 1, name.size());
    size = static_cast<socklen_t>(sizeof(sa_family_t) + 1 + name.size());
    Fd listener(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    REQUIRE_EQ(::bind(listener.number(), reinterpret_cast<sockaddr*>(&address), size), 0);
    REQUIRE_EQ(::listen(listener.number(), 8), 0);
    loop = *Loop::create({});
    server = *Server::create(*loop, std::move(listener));
  }
  Fd connect() {
    Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
    REQUIRE_EQ(::connect(fd.number(), reinterpret_cast<sockaddr*>(&address), size), 0);
    return fd;
  }
  std::optional<Request> wait_for_request() {
    for (int i = 0; i < 10; ++i) {
      if (auto request = server->next()) return request;
      REQUIRE(loop->run_once());
    }
    return std::nullopt;
  }

  sockaddr_un address = {};
  socklen_t size = 0;
  std::unique_ptr<Loop> loop;
  std::unique_ptr<Server> server;
};

void send_pause(const Fd& fd, uint64_t id) {
  ::mayfly::control::Request request;
  request.set_id(id);
  request.mutable_pause();
  const std::string bytes = request.SerializeAsString();
  REQUIRE_EQ(::send(fd.number(), bytes.data(), bytes.size(), 0),
             static_cast<ssize_t>(bytes.size()));
}

::mayfly::control::Reply receive_reply(const Fd& fd) {
  char buffer[4096];
  const ssize_t size = ::recv(fd.number(), buffer, sizeof(buffer), 0);
  REQUIRE_GT(size, 0);
  ::mayfly::control::Reply reply;
  REQUIRE(reply.ParseFromArray(buffer, static_cast<int>(size)));
  return reply;
}

TEST_CASE_FIXTURE(Fixture, "a request is answered under its id") {
  const Fd client = connect();
  send_pause(client, 41);
  const auto request = wait_for_request();
  REQUIRE(request.has_value());
  CHECK(std::holds_alternative<Pause>(request->call));
  server->reply(request->id, fail({Code::kFailedPrecondition, "NOT_RUNNING"}, "not running"));
  const auto reply = receive_reply(client);
  CHECK_EQ(reply.id(), 41);
  CHECK_EQ(reply.status().reason(), "NOT_RUNNING");
}

TEST_CASE_FIXTURE(Fixture, "memory goes with its reply, and stays ours too") {
  const Fd client = connect();
  send_pause(client, 5);
  REQUIRE(wait_for_request().has_value());
  const Fd memory = *Fd::memfd("memory", 4096);
  server->reply(5, Answer(Memory{memory.ref(), true}));
  char buffer[4096];
  iovec part{buffer, sizeof(buffer)};
  alignas(cmsghdr) char space[CMSG_SPACE(4 * sizeof(int))];
  msghdr header = {};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = space;
  header.msg_controllen = sizeof(space);
  const ssize_t got = ::recvmsg(client.number(), &header, MSG_CMSG_CLOEXEC);
  REQUIRE_GT(got, 0);
  ::mayfly::control::Reply reply;
  REQUIRE(reply.ParseFromArray(buffer, static_cast<int>(got)));
  CHECK(reply.memory().is_private());
  const cmsghdr* rights = CMSG_FIRSTHDR(&header);
  REQUIRE(rights != nullptr);
  REQUIRE_EQ(rights->cmsg_len, CMSG_LEN(sizeof(int)));
  int number = -1;
  std::memcpy(&number, CMSG_DATA(rights), sizeof(number));
  const Fd received(number);
  CHECK_NE(received.number(), memory.number());
  CHECK_EQ(*file_size(received.ref()), 4096);
  CHECK_EQ(*file_size(memory.ref()), 4096);
}

TEST_CASE_FIXTURE(Fixture, "garbage is answered and the connection lives on") {
  const Fd client = connect();
  REQUIRE_EQ(::send(client.number(), "\xff\xff", 2, 0), 2);
  send_pause(client, 2);
  CHECK_EQ(wait_for_request()->id, 2);
  CHECK_EQ(receive_reply(client).status().reason(), "BAD_MESSAGE");
}

TEST_CASE_FIXTURE(Fixture, "a second client waits for the first to go, and is then served") {
  Fd first = connect();
  const Fd second = connect();
  send_pause(first, 1);
  send_pause(second, 2);
  CHECK_EQ(wait_for_request()->id, 1);
  CHECK_FALSE(server->next().has_value());
  first.reset();
  CHECK_EQ(wait_for_request()->id, 2);
  CHECK(server->take_disconnect());
  CHECK_FALSE(server->take_disconnect());
}

TEST_CASE_FIXTURE(Fixture, "a packet over the limit ends the connection") {
  const Fd client = connect();
  const std::string large(kMaxPacketBytes + 1, 'x');
  REQUIRE_EQ(::send(client.number(), large.data(), large.size(), 0),
             static_cast<ssize_t>(large.size()));
  CHECK_FALSE(server->next().has_value());
  CHECK(server->take_disconnect());
}

}  // namespace
}  // namespace mayfly::vmm
