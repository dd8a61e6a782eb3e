// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/control_link.h"

#include "base/clock.h"
#include "guest/agent/convert.h"
#include "proto/agent.pb.h"

#include <doctest/doctest.h>

#include <cerrno>

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
            [] { return Hello{"1", "k", 2, 3, 4, ""}; }) {}

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
