// SPDX-License-Identifier: Apache-2.0
#include "base/event/loop.h"

#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly {
namespace {

struct Recorder final : LoopClient {
  void on_completion(uint32_t op, int32_t result) override { seen.emplace_back(op, result); }
  void on_turn() override { seen.emplace_back(kTurn, 0); }
  static constexpr uint32_t kTurn = 1000;
  std::vector<std::pair<uint32_t, int32_t>> seen;
};

std::unique_ptr<Loop> make_loop() {
  return *Loop::create({.ring_entries = 8, .files = 4, .clients = 2});
}

TEST_CASE("what is written through the ring is read back through it") {
  auto loop = make_loop();
  const Fd file = *Fd::memfd("loop", 8192);
  Recorder recorder;
  const ClientId client = *loop->add_client(recorder);
  const FileSlot slot = *loop->add_file(file.ref());
  std::array<char, 4> out{'d', 'a', 't', 'a'};
  std::array<char, 4> in{};
  const iovec write{out.data(), out.size()};
  const iovec read{in.data(), in.size()};
  REQUIRE(loop->writev(client, slot, {&write, 1}, 4096, 1));
  CHECK_EQ(loop->pending(client), 1);
  REQUIRE(loop->run_once());
  REQUIRE(loop->sync(client, slot, 2));
  REQUIRE(loop->run_once());
  REQUIRE(loop->readv(client, slot, {&read, 1}, 4096, 3));
  REQUIRE(loop->run_once());
  CHECK_EQ(loop->pending(client), 0);
  REQUIRE_EQ(recorder.seen.size(), 3);
  CHECK_EQ(recorder.seen[0], std::pair<uint32_t, int32_t>(1, 4));
  CHECK_EQ(recorder.seen[1], std::pair<uint32_t, int32_t>(2, 0));
  CHECK_EQ(recorder.seen[2], std::pair<uint32_t, int32_t>(3, 4));
  CHECK_EQ(in, out);
}

TEST_CASE("a turn comes after what the kernel did at once, and nothing is waited for before it") {
  auto loop = make_loop();
  const Fd file = *Fd::open("/dev/zero", O_RDONLY);
  Recorder recorder;
  const ClientId client = *loop->add_client(recorder);
  const FileSlot slot = *loop->add_file(file.ref());
  std::array<char, 4> bytes{};
  const iovec read{bytes.data(), bytes.size()};
  REQUIRE(loop->readv(client, slot, {&read, 1}, 0, 1));
  loop->request_turn(client);
  loop->request_turn(client);
  REQUIRE(loop->run_once());
  REQUIRE_EQ(recorder.seen.size(), 2);
  CHECK_EQ(recorder.seen[0].first, 1);
  CHECK_EQ(recorder.seen[1].first, Recorder::kTurn);
  loop->request_turn(client);
  REQUIRE(loop->run_once_for(uint64_t{60} * 1'000'000'000));
  CHECK_EQ(recorder.seen.size(), 3);
}

TEST_CASE("a turn asked for in a turn is the next batch's; a client that is gone has none") {
  struct Again final : LoopClient {
    void on_completion(uint32_t, int32_t) override {}
    void on_turn() override {
      if (++turns < 3) loop->request_turn(id);
    }
    Loop* loop = nullptr;
    ClientId id;
    int turns = 0;
  };
  auto loop = make_loop();
  Again again;
  again.loop = loop.get();
  again.id = *loop->add_client(again);
  loop->request_turn(again.id);
  for (int batch = 1; batch <= 3; ++batch) {
    REQUIRE(loop->run_once());
    CHECK_EQ(again.turns, batch);
  }
  loop->request_turn(again.id);
  loop->remove_client(again.id);
  REQUIRE(loop->run_once());
  CHECK_EQ(again.turns, 3);
}

TEST_CASE("every signal of a polled eventfd completes, without a read in between") {
  auto loop = make_loop();
  const Fd event = *Fd::event();
  Recorder recorder;
  const ClientId client = *loop->add_client(recorder);
  const FileSlot slot = *loop->add_file(event.ref());
  REQUIRE(loop->poll(client, slot, POLLIN, 9));
  for (int i = 0; i < 300; ++i) {
    signal_event(event.ref());
    REQUIRE(loop->run_once());
  }
  CHECK_EQ(recorder.seen.size(), 300);
}

TEST_CASE("a file slot used again does not hear its predecessor's poll") {
  auto loop = make_loop();
  const Fd first = *Fd::event();
  const Fd second = *Fd::event();
  Recorder recorder;
  const ClientId client = *loop->add_client(recorder);
  const FileSlot slot = *loop->add_file(first.ref());
  REQUIRE(loop->poll(client, slot, POLLIN, 1));
  loop->remove_file(slot);
  const FileSlot again = *loop->add_file(second.ref());
  CHECK_EQ(again.index, slot.index);
  REQUIRE(loop->poll(client, again, POLLIN, 2));
  signal_event(first.ref());
  signal_event(second.ref());
  REQUIRE(loop->run_once());
  while (recorder.seen.empty()) REQUIRE(loop->run_once());
  for (const auto& [op, result] : recorder.seen) CHECK_EQ(op, 2);
}

TEST_CASE("a removed file is let go of, also while its poll has something to tell") {
  auto loop = make_loop();
  auto [ours, theirs] = *Fd::socket_pair(SOCK_STREAM);
  Recorder recorder;
  const ClientId client = *loop->add_client(recorder);
  const FileSlot slot = *loop->add_file(ours.ref());
  REQUIRE(loop->poll(client, slot, POLLIN, 1));
  REQUIRE(loop->run_once_for(1'000'000));
  // The kernel has noted the event for the poll, and has not told us yet.
  const char byte = 'x';
  REQUIRE_EQ(::write(theirs.number(), &byte, 1), 1);
  loop->remove_file(slot);
  ours.reset();
  for (int i = 0; i < 3; ++i) REQUIRE(loop->run_once_for(1'000'000));
  CHECK(recorder.seen.empty());
  pollfd peer = {.fd = theirs.number(), .events = POLLIN, .revents = 0};
  CHECK_EQ(::poll(&peer, 1, 2000), 1);
  CHECK_NE(peer.revents & POLLHUP, 0);
}

TEST_CASE("completions of a removed client are dropped, and its slot waits for them") {
  auto loop = make_loop();
  const Fd file = *Fd::memfd("loop", 4096);
  Recorder gone;
  Recorder next;
  Recorder third;
  std::array<char, 1> byte{};
  const iovec buffer{byte.data(), 1};
  const ClientId id = *loop->add_client(gone);
  const FileSlot slot = *loop->add_file(file.ref());
  REQUIRE(loop->readv(id, slot, {&buffer, 1}, 0, 1));
  loop->remove_client(id);
  CHECK_NE(loop->add_client(next)->slot, id.slot);
  CHECK_EQ(loop->add_client(third).error().reason(), "LOOP_CLIENTS");
  REQUIRE(loop->run_once());
  CHECK(gone.seen.empty());
  CHECK_EQ(loop->add_client(third)->slot, id.slot);
}

TEST_CASE("the table of files is bounded") {
  auto loop = make_loop();
  const Fd event = *Fd::event();
  for (int i = 0; i < 4; ++i) REQUIRE(loop->add_file(event.ref()));
  CHECK_EQ(loop->add_file(event.ref()).error().reason(), "LOOP_FILES");
}

TEST_CASE("wake() from another thread ends a wait with nothing to do") {
  auto loop = make_loop();
  std::thread other([&] { loop->wake(); });
  CHECK(loop->run_once());
  other.join();
}

TEST_CASE("a bounded wait ends by itself when nothing comes") {
  auto loop = make_loop();
  CHECK(loop->run_once_for(1'000'000));
}

TEST_CASE("more operations than ring entries are all carried out") {
  auto loop = make_loop();
  const Fd file = *Fd::memfd("loop", 4096);
  Recorder recorder;
  std::array<char, 1> byte{};
  const iovec buffer{byte.data(), 1};
  const ClientId id = *loop->add_client(recorder);
  const FileSlot slot = *loop->add_file(file.ref());
  for (uint32_t i = 0; i < 40; ++i) REQUIRE(loop->readv(id, slot, {&buffer, 1}, 0, i));
  while (recorder.seen.size() < 40) REQUIRE(loop->run_once());
  CHECK_EQ(loop->pending(id), 0);
}

}  // namespace
}  // namespace mayfly
