// SPDX-License-Identifier: Apache-2.0
//
// A MetadataServer between real sockets: programs of the guest on one side, and on the other a host
// that is this test. One thread drives all of it.
#include "guest/agent/metadata_server.h"

#include "base/clock.h"
#include "guest/agent/frame.h"
#include "guest/agent/metadata_command.h"
#include "proto/agent.pb.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cerrno>
#include <deque>
#include <string>
#include <thread>
#include <vector>

#include <sys/socket.h>
#include <unistd.h>

namespace mayfly::guest {
namespace {

constexpr uint64_t kMillisecond = 1'000'000;

// Hands out what was put into `waiting`; readable while there is something.
struct FakeListener final : Listener {
  explicit FakeListener(std::deque<Fd>& sockets, FdRef event) : waiting(sockets), ready(event) {}
  FdRef fd() const override { return ready; }
  std::optional<Fd> accept() override {
    if (waiting.empty()) return std::nullopt;
    Fd next = std::move(waiting.front());
    waiting.pop_front();
    return next;
  }
  std::deque<Fd>& waiting;
  FdRef ready;
};

struct Bench {
  Bench()
      : link(
            [this]() -> Result<Fd> {
              auto ends = TRY(Fd::socket_pair(SOCK_STREAM | SOCK_NONBLOCK));
              host = std::move(ends.first);
              decoder.emplace();
              return std::move(ends.second);
            },
            [] { return Hello{"1", "k", 1, 1, 1, ""}; }, [](const Restored&) { return Reseeded{}; },
            [](const Network&) { return std::string(); }),
        server([this] {
          std::vector<std::unique_ptr<Listener>> listeners;
          listeners.push_back(std::make_unique<FakeListener>(waiting, ready.first.ref()));
          return listeners;
        }) {
    link.on_metadata([this](const MetadataOffer& offer) { server.offer(offer); },
                     [this](const MetadataAnswer& answer) { server.answer(answer); });
    // Readable for ever: accept() says whether there is one.
    REQUIRE_EQ(::write(ready.second.number(), "x", 1), 1);
    offer(true);
  }

  // Rounds until nothing more happens.
  void run(uint64_t now_ns = monotonic_ns()) {
    for (int i = 0; i < 60; ++i) {
      PollSet set;
      link.collect(set);
      server.collect(set);
      REQUIRE_UNARY(set.wait(0).has_value());
      link.handle(set, now_ns);
      server.handle(set, now_ns, link);
    }
  }

  Fd connect(const std::string& text) {
    auto ends = *Fd::socket_pair(SOCK_STREAM | SOCK_NONBLOCK);
    REQUIRE_UNARY(write_all(ends.first.ref(), std::as_bytes(std::span(text))).has_value());
    waiting.push_back(std::move(ends.second));
    run();
    return std::move(ends.first);
  }

  void offer(bool is_there) {
    run();
    agent::HostToAgent message;
    message.mutable_metadata_offer()->set_is_there(is_there);
    say(message);
  }

  void say(const agent::HostToAgent& message) {
    const std::string bytes = message.SerializeAsString();
    SendQueue queue;
    queue.add_frame(std::as_bytes(std::span(bytes)));
    REQUIRE_UNARY(write_all(host.ref(), queue.pending()).has_value());
    run();
  }

  // What the agent asks for next; past its Hellos.
  std::optional<agent::MetadataRequest> asked() {
    for (;;) {
      while (const auto frame = *decoder->next()) {
        agent::AgentToHost message;
        REQUIRE_UNARY(message.ParseFromArray(frame->data(), static_cast<int>(frame->size())));
        if (message.has_metadata_request()) return message.metadata_request();
      }
      const auto room = decoder->room();
      const ssize_t size = ::read(host.number(), room.data(), room.size());
      if (size <= 0) return std::nullopt;
      decoder->filled(static_cast<size_t>(size));
    }
  }

  struct Piece {
    std::string content;
    uint32_t total = 0;
    uint64_t version = 1;
    bool is_json = false;
    agent::MetadataAnswer::Status status = agent::MetadataAnswer::STATUS_OK;
  };
  void answer(uint32_t id, const Piece& piece) {
    agent::HostToAgent message;
    agent::MetadataAnswer& out = *message.mutable_metadata_answer();
    out.set_id(id);
    out.set_status(piece.status);
    out.set_content(piece.content);
    out.set_total_bytes(piece.total);
    out.set_version(piece.version);
    out.set_is_json(piece.is_json);
    say(message);
  }

  std::deque<Fd> waiting;
  std::pair<Fd, Fd> ready = *Fd::pipe();
  Fd host;
  std::optional<FrameDecoder> decoder;
  ControlLink link;
  MetadataServer server;
};

// What has come, and whether the connection has ended behind it.
struct Got {
  std::string text;
  bool is_over = false;
};
Got read_from(const Fd& client) {
  Got got;
  char buffer[4096];
  ssize_t size;
  while ((size = ::read(client.number(), buffer, sizeof(buffer))) > 0) {
    got.text.append(buffer, static_cast<size_t>(size));
  }
  got.is_over = size == 0;
  return got;
}

void check_refused(const Fd& client, const std::string& status) {
  const Got got = read_from(client);
  CHECK_UNARY(got.text.starts_with("HTTP/1.1 " + status));
  CHECK_UNARY(got.is_over);
}

const std::string kGet = "GET /a HTTP/1.1\r\nX-aws-ec2-metadata-token: t\r\n\r\n";
const std::string kPut =
    "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n";

TEST_CASE("what is asked for goes to the host word for word, and its answer comes back") {
  Bench b;
  const Fd put = b.connect(kPut + "\r\n");
  auto asked = b.asked();
  REQUIRE_UNARY(asked.has_value());
  CHECK_EQ(asked->token_ttl_s(), 60);
  b.answer(asked->id(), {.content = "secret", .total = 6});
  CHECK_EQ(read_from(put).text,
           "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n"
           "Connection: close\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\nsecret");
  const Fd get = b.connect(
      "GET /a%2Fb HTTP/1.1\r\nX-aws-ec2-metadata-token: secret\r\n"
      "Accept: application/json\r\n\r\n");
  asked = b.asked();
  REQUIRE_UNARY(asked.has_value());
  CHECK_EQ(asked->path(), "/a%2Fb");
  CHECK_EQ(asked->token(), "secret");
  CHECK(asked->wants_json());
  CHECK_EQ(asked->token_ttl_s(), 0);
  b.answer(asked->id() + 1, {.content = "not for this one", .total = 16});
  CHECK_EQ(read_from(get).text, "");
  b.answer(asked->id(), {.content = "\"x\"", .total = 3, .is_json = true});
  const Got got = read_from(get);
  CHECK_UNARY(got.text.ends_with("\r\n\r\n\"x\""));
  CHECK_UNARY(got.text.find("application/json") != std::string::npos);
  CHECK_UNARY(got.is_over);
}

TEST_CASE("what can be refused without the host is") {
  Bench b;
  check_refused(b.connect("nonsense\r\n"), "400");
  check_refused(b.connect("PUT /latest/api/token HTTP/1.1\r\n\r\n"), "400");
  for (const char* ttl : {"0", "21601", "-1", "+5", "6x", "", "99999999999"}) {
    check_refused(b.connect("PUT /latest/api/token HTTP/1.1\r\n" + std::string(kTtlHeader) + ": " +
                            ttl + "\r\n\r\n"),
                  "400");
  }
  check_refused(b.connect(kPut + "X-Forwarded-For: 1.2.3.4\r\n\r\n"), "403");
  check_refused(b.connect("PUT /a HTTP/1.1\r\n\r\n"), "405");
  check_refused(b.connect("POST /a HTTP/1.1\r\n\r\n"), "405");
  check_refused(b.connect("GET /latest/api/token HTTP/1.1\r\n\r\n"), "405");
  check_refused(b.connect(std::string(kMaxHeadBytes + 5000, 'a')), "431");
  CHECK_FALSE(b.asked().has_value());
}

TEST_CASE("the host's refusals have their statuses") {
  Bench b;
  const std::pair<agent::MetadataAnswer::Status, const char*> kAll[] = {
      {agent::MetadataAnswer::STATUS_UNAUTHORIZED, "401"},
      {agent::MetadataAnswer::STATUS_NOT_FOUND, "404"},
      {agent::MetadataAnswer::STATUS_BAD_PATH, "400"},
      {agent::MetadataAnswer::STATUS_BUSY, "503"}};
  for (const auto& [status, expected] : kAll) {
    const Fd client = b.connect(kGet);
    const auto asked = b.asked();
    REQUIRE_UNARY(asked.has_value());
    b.answer(asked->id(), {.content = {}, .status = status});
    check_refused(client, expected);
  }
}

TEST_CASE("a document in pieces is one response; one that changes under way is read anew") {
  Bench b;
  const Fd client = b.connect(kGet);
  auto asked = b.asked();
  b.answer(asked->id(), {.content = "old1", .total = 8, .version = 1});
  asked = b.asked();
  REQUIRE_UNARY(asked.has_value());
  CHECK_EQ(asked->offset(), 4);
  b.answer(asked->id(), {.content = "NEW2", .total = 8, .version = 2});
  asked = b.asked();
  REQUIRE_UNARY(asked.has_value());
  CHECK_EQ(asked->offset(), 0);
  b.answer(asked->id(), {.content = "NEW1", .total = 8, .version = 2});
  asked = b.asked();
  b.answer(asked->id(), {.content = "NEW2", .total = 8, .version = 2});
  CHECK_UNARY(read_from(client).text.ends_with("\r\n\r\nNEW1NEW2"));
}

TEST_CASE(
    "what was asked for before a restore is asked for again, and nothing of it is given out") {
  Bench b;
  const Fd client = b.connect(kGet);
  auto asked = b.asked();
  b.answer(asked->id(), {.content = "the source's", .total = 24, .version = 1});
  asked = b.asked();
  REQUIRE_UNARY(asked.has_value());
  const uint32_t before = asked->id();
  b.host.reset();
  b.run();
  b.run(monotonic_ns() + 5 * kMillisecond);  // The link's next try.
  asked = b.asked();
  REQUIRE_UNARY(asked.has_value());
  CHECK_NE(asked->id(), before);
  CHECK_EQ(asked->offset(), 0);
  b.answer(before, {.content = "the source's", .total = 12, .version = 1});
  CHECK_EQ(read_from(client).text, "");
  b.answer(asked->id(), {.content = "its own", .total = 7, .version = 1});
  CHECK_UNARY(read_from(client).text.ends_with("\r\n\r\nits own"));
}

TEST_CASE("there is a bound of clients, and of the time that each has") {
  Bench b;
  std::vector<Fd> slow;
  for (size_t i = 0; i < MetadataServer::kMaxClients; ++i) slow.push_back(b.connect("GET"));
  const Fd late = b.connect(kGet);
  CHECK_EQ(b.waiting.size(), 1u);
  CHECK_FALSE(b.asked().has_value());
  const uint64_t later = monotonic_ns() + MetadataServer::kClientNs;
  b.run(later);
  check_refused(slow[0], "408");
  b.run(later);
  const auto asked = b.asked();
  REQUIRE_UNARY(asked.has_value());
  // A host that does not answer at all.
  b.run(later + MetadataServer::kClientNs + kMillisecond);
  check_refused(late, "503");
  // One that has gone is not asked for.
  b.connect(kGet).reset();
  b.run(later + 2 * MetadataServer::kClientNs);
  CHECK_EQ(b.server.deadline_ns(), kNever);
}

TEST_CASE("without an offer nobody is listened to") {
  Bench b;
  b.offer(false);
  const Fd client = b.connect(kGet);
  CHECK_EQ(b.waiting.size(), 1u);
  b.offer(true);
  CHECK_EQ(b.waiting.size(), 0u);
  CHECK_UNARY(b.asked().has_value());
}

TEST_CASE("the command takes a token and reads by it") {
  Bench b;
  // It blocks, so that it has a thread, and its connections are made beforehand.
  std::vector<Fd> ours;
  for (int i = 0; i < 2; ++i) {
    auto ends = *Fd::socket_pair(SOCK_STREAM);
    REQUIRE_UNARY(set_nonblocking(ends.second.ref(), true).has_value());
    b.waiting.push_back(std::move(ends.second));
    ours.push_back(std::move(ends.first));
  }
  const ConnectToMetadata connect = [&ours]() -> Result<Fd> {
    Fd next = std::move(ours.back());
    ours.pop_back();
    return next;
  };
  std::optional<Result<std::string>> body;
  std::atomic<bool> done = false;
  std::thread command([&] {
    body = read_metadata("/a", true, connect);
    done = true;
  });
  while (!done) {
    b.run();
    const auto asked = b.asked();
    if (!asked) continue;
    b.answer(asked->id(),
             asked->token_ttl_s() != 0
                 ? Bench::Piece{.content = "tok", .total = 3}
                 : Bench::Piece{.content = asked->token() + asked->path(), .total = 5});
  }
  command.join();
  REQUIRE_UNARY(body->has_value());
  CHECK_EQ(**body, "tok/a");
}

}  // namespace
}  // namespace mayfly::guest
