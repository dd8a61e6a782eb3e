// SPDX-License-Identifier: Apache-2.0
//
// A real socket, whose other end is this test.
#include "virtio/net/net.h"
#include "virtio/net/stream_sys.h"
#include "virtio/queue/testing/device_harness.h"

#include <doctest/doctest.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>
#include <vector>

#include <sys/socket.h>
#include <unistd.h>

namespace mayfly::virtio::net {
namespace {

struct Client final : BackendClient {
  void on_frames_waiting() override { ++waiting; }
  void on_room_to_send() override { ++room; }
  int waiting = 0;
  int room = 0;
};

struct Setup {
  std::unique_ptr<Loop> loop = *Loop::create({});
  Client client;
  std::unique_ptr<Stream> stream;
  Fd host;

  Setup() {
    std::signal(SIGPIPE, SIG_IGN);  // As the monitor has it.
    auto ends = *Fd::socket_pair(SOCK_STREAM | SOCK_NONBLOCK);
    host = std::move(ends.first);
    auto made = Stream::create(*loop, std::move(ends.second));
    REQUIRE(made.has_value());
    stream = *std::move(made);
    stream->attach(client);
  }
  void say(std::span<const std::byte> bytes) {
    REQUIRE_EQ(::write(host.number(), bytes.data(), bytes.size()),
               static_cast<ssize_t>(bytes.size()));
  }
  void say_frame(std::span<const std::byte> frame) {
    say(encode_frame_length(frame.size()));
    say(frame);
  }
  // Until `done`, or for as long as events come quickly.
  template <typename Done>
  void run(Done done) {
    for (int i = 0; !done() && i < 1000; ++i) REQUIRE(loop->run_once_for(10'000'000));
  }
  IoResult receive(std::span<std::byte> room) {
    const std::array<iovec, 2> pieces = {iovec{room.data(), 10},
                                         iovec{room.data() + 10, room.size() - 10}};
    Header header = {.gso_type = 99};
    const IoResult got = stream->receive(header, pieces);
    CHECK_EQ(header.gso_type, kGsoNone);
    return got;
  }
};

std::vector<std::byte> frame_of(size_t size, unsigned seed = 1) {
  std::vector<std::byte> frame(size);
  for (size_t i = 0; i < size; ++i) frame[i] = std::byte((i * 3 + seed) % 249);
  return frame;
}

IoResult send(Stream& stream, const std::vector<std::byte>& frame, const Header& header = {}) {
  auto* data = const_cast<std::byte*>(frame.data());
  const std::array<iovec, 2> pieces = {iovec{data, 5}, iovec{data + 5, frame.size() - 5}};
  return stream.send(header, pieces);
}

std::string reason_of(Fd fd) {
  const auto loop = MUST(Loop::create({}));
  const auto stream = Stream::create(*loop, std::move(fd));
  return stream ? "" : stream.error().reason();
}

TEST_CASE("only a socket that does not block is one") {
  CHECK_EQ(reason_of(MUST(Fd::event())), "NET_STREAM");
  CHECK_EQ(reason_of(std::move(MUST(Fd::socket_pair(SOCK_STREAM)).first)), "NET_STREAM");
  CHECK_EQ(reason_of(std::move(MUST(Fd::socket_pair(SOCK_STREAM | SOCK_NONBLOCK)).first)), "");
}

TEST_CASE("frames come whole, however they arrive, and long ones say how long they were") {
  Setup s;
  std::vector<std::byte> room(2000);
  const auto frame = frame_of(1000);
  const auto length = encode_frame_length(frame.size());
  s.say(std::span(length).first(3));
  s.run([&] { return s.client.waiting > 0; });
  CHECK(s.receive(room).status == IoStatus::kWouldBlock);
  s.say(std::span(length).subspan(3));
  s.say(frame);
  s.say_frame(frame_of(3000, 2));
  s.say_frame(frame_of(13));
  s.say_frame(frame_of(14, 3));
  CHECK_EQ(s.receive(room).bytes, 1000);
  CHECK_EQ(std::memcmp(room.data(), frame.data(), 1000), 0);
  CHECK_EQ(s.receive(room).bytes, 3000);
  CHECK(s.receive(room).status == IoStatus::kFailed);
  CHECK_EQ(s.receive(room).bytes, 14);
  CHECK(s.receive(room).status == IoStatus::kWouldBlock);
  CHECK_FALSE(s.stream->is_lost());
}

TEST_CASE("a frame that goes out in part is followed by its rest, and then by the next") {
  Setup s;
  const int small = 4608;
  REQUIRE_EQ(::setsockopt(s.host.number(), SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
  std::vector<std::byte> expected;
  size_t sent = 0;
  for (;; ++sent) {
    const auto frame = frame_of(50'000, static_cast<unsigned>(sent));
    const IoResult result = send(*s.stream, frame);
    if (result.status == IoStatus::kWouldBlock) break;
    REQUIRE(result.status == IoStatus::kMoved);
    CHECK_EQ(result.bytes, frame.size());
    const auto length = encode_frame_length(frame.size());
    expected.insert(expected.end(), length.begin(), length.end());
    expected.insert(expected.end(), frame.begin(), frame.end());
    REQUIRE_LT(sent, 1000);
  }
  REQUIRE_GT(sent, 0);
  std::vector<std::byte> got;
  std::array<std::byte, 4096> buffer;
  while (got.size() < expected.size()) {
    const ssize_t size = ::read(s.host.number(), buffer.data(), buffer.size());
    if (size < 0) {
      REQUIRE_EQ(errno, EAGAIN);
      REQUIRE(s.loop->run_once_for(10'000'000));
      continue;
    }
    got.insert(got.end(), buffer.begin(), buffer.begin() + size);
  }
  CHECK(got == expected);
  s.run([&] { return s.client.room > 0; });
  CHECK(send(*s.stream, frame_of(60)).status == IoStatus::kMoved);
}

TEST_CASE("work that is left to nobody is not sent") {
  Setup s;
  CHECK(send(*s.stream, frame_of(100), {.flags = kHeaderNeedsCsum}).status == IoStatus::kFailed);
  CHECK(send(*s.stream, frame_of(100), {.gso_type = 1}).status == IoStatus::kFailed);
  CHECK(send(*s.stream, frame_of(100)).status == IoStatus::kMoved);
}

TEST_CASE("what came before the other end went is received, and then the link is lost") {
  Setup s;
  std::vector<std::byte> room(2000);
  s.say_frame(frame_of(100));
  s.host.reset();
  s.run([&] { return s.client.waiting > 0; });
  CHECK_EQ(s.receive(room).bytes, 100);
  CHECK(s.receive(room).status == IoStatus::kWouldBlock);
  CHECK(s.stream->is_lost());
  CHECK(send(*s.stream, frame_of(100)).status == IoStatus::kFailed);
  // Nothing turns round and round.
  const int before = s.client.waiting;
  for (int i = 0; i < 20; ++i) REQUIRE(s.loop->run_once_for(1'000'000));
  CHECK_EQ(s.client.waiting, before);
}

TEST_CASE("one that sends what is no frame is heard no more, and hears of it") {
  Setup s;
  std::vector<std::byte> room(2000);
  s.say(encode_frame_length(kMaxFrameBytes + 1));
  CHECK(s.receive(room).status == IoStatus::kWouldBlock);
  CHECK(s.stream->is_lost());
  // The ring gives its own file back when it gets to it.
  ssize_t size = -1;
  s.run([&] { return (size = ::read(s.host.number(), room.data(), room.size())) == 0; });
  CHECK_EQ(size, 0);
}

TEST_CASE("a device without a driver takes no frames, and does not turn when the other end goes") {
  std::signal(SIGPIPE, SIG_IGN);
  auto loop = MUST(Loop::create({}));
  auto [host, guest] = MUST(Fd::socket_pair(SOCK_STREAM | SOCK_NONBLOCK));
  auto net = MUST(
      Net::create(MUST(Stream::create(*loop, std::move(guest))), {0x02, 0, 0, 0, 0, 1}, 65520));
  // The link's offloads are none: a guest is offered none.
  CHECK_EQ(net->features() & (kFeatureCsum | kFeatureGuestCsum | kFeatureHostTso4), 0);
  const auto frame = frame_of(60'000);
  const auto length = encode_frame_length(frame.size());
  for (int i = 0; i < 2; ++i) {
    REQUIRE_EQ(::write(host.number(), length.data(), length.size()), 4);
    REQUIRE_EQ(::write(host.number(), frame.data(), frame.size()), 60'000);
  }
  REQUIRE(loop->run_once_for(10'000'000));
  host.reset();
  for (int i = 0; i < 20; ++i) REQUIRE(loop->run_once_for(1'000'000));
  std::array<std::byte, 2> status;
  net->read_config(offsetof(Config, status), status);
  CHECK_EQ(status[0], std::byte{0});
}

TEST_CASE("a guest is told that its link is down") {
  std::signal(SIGPIPE, SIG_IGN);
  auto loop = MUST(Loop::create({}));
  auto [host, guest] = MUST(Fd::socket_pair(SOCK_STREAM | SOCK_NONBLOCK));
  auto net =
      MUST(Net::create(MUST(Stream::create(*loop, std::move(guest))), {0x02, 0, 0, 0, 0, 1}, 1500));
  mayfly::virtio::testing::DeviceHarness harness(*net,
                                                 {.memory_bytes = 32 << 20, .data_size = 4 << 20});
  harness.activate(kFeatureVersion1 | kFeatureStatus | kFeatureMrgRxbuf);
  for (uint16_t queue = 0; queue < 3; ++queue) harness.notify(queue);
  CHECK_EQ(harness.config_changes, 0);
  host.reset();
  for (int i = 0; i < 20; ++i) REQUIRE(loop->run_once_for(1'000'000));
  CHECK_EQ(harness.config_changes, 1);
  auto& tx = harness.driver(kTxQueue);
  tx.add({tx.readable_object(Header{}), tx.readable(frame_of(60))});
  harness.notify(kTxQueue);
  CHECK_EQ(net->counters().tx_dropped, 1);
  CHECK_EQ(harness.config_changes, 1);
}

}  // namespace
}  // namespace mayfly::virtio::net
