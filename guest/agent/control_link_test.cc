// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/control_link.h"

#include "base/clock.h"
#include "guest/agent/convert.h"
#include "proto/agent.pb.h"

#include <doctest/doctest.h>

#include <cerrno>
#include <string>
#include <vector>

#include <sys/socket.h>
#include <unistd.h>

namespace mayfly::guest {
namespace {

constexpr uint64_t kMillisecond = 1'000'000;

// The host end of every connection the link makes, and a link whose first `refusals` tries fail.
struct Bench {
  explicit Bench(int refusals = 0)
      : refuse(refusals),
        link(
            [this]() -> Result<Fd> {
              ++tries;
              if (refuse-- > 0) return fail_errno({Code::kUnavailable, "VSOCK"}, ENODEV, "connect");
              auto ends = TRY(Fd::socket_pair(SOCK_STREAM | SOCK_NONBLOCK));
              host = std::move(ends.first);
              return std::move(ends.second);
            },
            [] { return Hello{"1", "k", 2, 3, 4, ""}; },
            [this](const Restored& restored) {
              reseeds.push_back(restored.entropy);
              return Reseeded{-5, "no clock"};
            },
            [this](const Network& network) {
              networks.push_back(network);
              return std::string("no eth0");
            }) {}

  void run(uint64_t duration_ms) {
    const uint64_t end = monotonic_ns() + duration_ms * kMillisecond;
    do {
      PollSet set;
      link.collect(set);
      REQUIRE_UNARY(set.wait(std::min(end, link.deadline_ns())).has_value());
      link.handle(set, monotonic_ns());
    } while (monotonic_ns() < end);
  }

  // What has arrived at the host, without its frame header; empty: nothing.
  std::string received() {
    char bytes[4096];
    const ssize_t count = ::read(host.number(), bytes, sizeof(bytes));
    return count > 4 ? std::string(bytes + 4, static_cast<size_t>(count) - 4) : std::string();
  }

  void say(const std::string& bytes) {
    SendQueue queue;
    queue.add_frame(std::as_bytes(std::span(bytes)));
    REQUIRE_UNARY(write_all(host.ref(), queue.pending()).has_value());
  }

  int refuse;
  int tries = 0;
  Fd host;
  std::vector<std::string> reseeds;
  std::vector<Network> networks;
  ControlLink link;
};

const std::string kPowerOff("\x0a\x02\x08\x01", 4);

TEST_CASE("the link connects at once and says Hello") {
  Bench bench;
  bench.run(5);
  CHECK_EQ(bench.tries, 1);
  CHECK_UNARY(bench.link.announced());
  agent::AgentToHost message;
  REQUIRE_UNARY(message.ParseFromString(bench.received()));
  CHECK_EQ(message.hello().cpu_count(), 2u);
}

TEST_CASE("a transport that is not there yet is tried again soon, and then more and more rarely") {
  Bench soon(2);
  soon.run(50);
  CHECK_EQ(soon.tries, 3);
  CHECK_UNARY(soon.link.announced());
  Bench never(1'000'000);
  never.run(300);
  CHECK_LT(never.tries, 10);
  CHECK_UNARY(!never.link.announced());
}

TEST_CASE("Shutdown is handed on once") {
  Bench bench;
  bench.run(5);
  bench.say(kPowerOff);
  bench.run(5);
  CHECK_EQ(bench.link.take_shutdown(), std::optional(ShutdownMode::kPowerOff));
  CHECK_EQ(bench.link.take_shutdown(), std::nullopt);
}

TEST_CASE("a lost connection is made anew, with a new Hello") {
  Bench bench;
  bench.run(5);
  CHECK_UNARY(!bench.received().empty());
  bench.host.reset();
  bench.run(20);
  CHECK_EQ(bench.tries, 2);
  CHECK_UNARY(!bench.received().empty());
}

TEST_CASE(
    "a restored guest says Hello again, takes what is its own, and answers on that connection") {
  Bench bench;
  bench.run(5);
  (void)bench.received();
  bench.host.reset();
  bench.run(20);
  agent::AgentToHost hello;
  REQUIRE_UNARY(hello.ParseFromString(bench.received()));
  CHECK_UNARY(hello.has_hello());
  CHECK_UNARY(bench.reseeds.empty());
  agent::HostToAgent restored;
  restored.mutable_restored()->set_entropy(std::string(32, 'e'));
  restored.mutable_restored()->set_realtime_ns(1);
  bench.say(restored.SerializeAsString());
  bench.run(5);
  CHECK_EQ(bench.reseeds, std::vector{std::string(32, 'e')});
  agent::AgentToHost answer;
  REQUIRE_UNARY(answer.ParseFromString(bench.received()));
  CHECK_EQ(answer.reseeded().clock_step_us(), -5);
  CHECK_EQ(answer.reseeded().failure(), "no clock");
}

TEST_CASE("the host's word on the network is done, and answered") {
  Bench bench;
  bench.run(5);
  (void)bench.received();
  agent::HostToAgent message;
  auto& interface = *message.mutable_network()->add_interfaces();
  interface.set_mac("\2\1\1\1\1\7");
  interface.set_address(0x0a00'0002);
  interface.set_prefix_bits(30);
  interface.add_nameservers(0x0808'0808);
  bench.say(message.SerializeAsString());
  bench.run(5);
  REQUIRE_EQ(bench.networks.size(), 1);
  const Interface& told = bench.networks[0].interfaces.at(0);
  CHECK_EQ(told.mac[5], 7);
  CHECK_EQ(told.address, 0x0a00'0002);
  CHECK_EQ(told.prefix_bits, 30);
  CHECK_EQ(told.nameservers, std::vector<uint32_t>{0x0808'0808});
  agent::AgentToHost answer;
  REQUIRE_UNARY(answer.ParseFromString(bench.received()));
  CHECK_EQ(answer.network_set().failure(), "no eth0");
}

TEST_CASE("a host that ends every connection gets one Hello on each, and is never given up") {
  Bench bench;
  for (int round = 1; round <= 20; ++round) {
    std::string hello;
    for (int i = 0; i < 1000 && hello.empty(); ++i) {
      bench.run(1);
      hello = bench.received();
    }
    CHECK_UNARY(!hello.empty());
    CHECK_EQ(bench.tries, round);
    bench.host.reset();
  }
}

TEST_CASE("an unknown message is passed over, a broken frame costs the connection") {
  Bench bench;
  bench.run(5);
  bench.say("\x1a\x01x");
  bench.say(kPowerOff);
  bench.run(5);
  CHECK_UNARY(bench.link.take_shutdown().has_value());
  CHECK_EQ(bench.tries, 1);
  const uint32_t huge = 0xffffffff;
  REQUIRE_UNARY(write_all(bench.host.ref(), std::as_bytes(std::span(&huge, 1))).has_value());
  bench.run(20);
  CHECK_EQ(bench.tries, 2);
}

TEST_CASE("that shutting down failed reaches the host") {
  Bench bench;
  bench.run(5);
  (void)bench.received();
  bench.link.send_shutdown_failed("no");
  bench.run(5);
  agent::AgentToHost message;
  REQUIRE_UNARY(message.ParseFromString(bench.received()));
  CHECK_EQ(message.shutdown_failed().message(), "no");
}

}  // namespace
}  // namespace mayfly::guest
