// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/session.h"

#include "base/clock.h"
#include "guest/agent/testing/test_host.h"

#include <doctest/doctest.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <iterator>

#include <unistd.h>

namespace mayfly::guest {
namespace {

using Argv = std::vector<std::string>;

Argv shell(const std::string& script) { return {"/bin/sh", "-c", script}; }

Transcript run(Argv argv) {
  const auto service = make_service();
  TestHost host(*service);
  host.start(std::move(argv));
  const Transcript transcript = host.finish();
  drive(*service, 3000);
  CHECK_EQ(service->connections(), 0u);
  CHECK_UNARY(!transcript.misordered);
  return transcript;
}

bool alive(uint32_t pid) { return ::kill(static_cast<pid_t>(pid), 0) == 0; }

TEST_CASE("standard output and standard error arrive apart, and then the exit code") {
  const Transcript said = run(shell("echo out; echo err >&2; exit 7"));
  CHECK_GT(said.started, 0u);
  CHECK_EQ(said.stdout_bytes, "out\n");
  CHECK_EQ(said.stderr_bytes, "err\n");
  CHECK_UNARY(said.exited);
  CHECK_EQ(said.exit_code, 7u);
  CHECK_EQ(said.signal, 0u);
  CHECK_UNARY(said.closed);
}

TEST_CASE("a command ended by a signal is reported as a shell would, and with the signal") {
  const Transcript said = run(shell("kill -TERM $$"));
  CHECK_EQ(said.exit_code, 128u + SIGTERM);
  CHECK_EQ(said.signal, static_cast<uint32_t>(SIGTERM));
}

TEST_CASE("the program is found in PATH, and the agent's defaults are there") {
  const Transcript said = run({"env"});
  CHECK_UNARY(said.stdout_bytes.find("PATH=/usr/local/sbin:") != std::string::npos);
  CHECK_UNARY(said.stdout_bytes.find("HOME=/root\n") != std::string::npos);
  CHECK_EQ(said.exit_code, 0u);
}

TEST_CASE(
    "the host's environment wins over the defaults, and its directory is where the command is") {
  const auto service = make_service();
  TestHost host(*service);
  host.start(shell("echo $HOME $X; pwd"), {"HOME=/elsewhere", "X=1", "X=2"}, "/usr");
  CHECK_EQ(host.finish().stdout_bytes, "/elsewhere 2\n/usr\n");
}

TEST_CASE("a command for another user runs as that one, or not at all") {
  const auto service = make_service();
  TestHost host(*service);
  host.start_as(shell("id -u; id -g; id -G; cat /proc/self/status | grep CapEff"), 1234, 5, {6, 7});
  const Transcript& said = host.finish();
  if (::geteuid() == 0) {
    CHECK_EQ(said.stdout_bytes, "1234\n5\n5 6 7\nCapEff:\t0000000000000000\n");
    TestHost closed(*service);
    closed.start_as({"/bin/true"}, 1234, 5, {}, "/root");
    CHECK_EQ(closed.finish().guest_errno, static_cast<uint32_t>(EACCES));
  } else {
    CHECK_EQ(said.guest_errno, static_cast<uint32_t>(EPERM));
    CHECK_UNARY(said.failure.find("become user 1234, group 5") != std::string::npos);
  }
}

TEST_CASE("what cannot be started is a failure with the guest's errno and the name") {
  const Transcript missing = run({"no-such-program-here"});
  CHECK_UNARY(missing.failed);
  CHECK_EQ(missing.guest_errno, static_cast<uint32_t>(ENOENT));
  CHECK_UNARY(missing.failure.find("no-such-program-here") != std::string::npos);
  CHECK_EQ(missing.started, 0u);
  CHECK_UNARY(missing.closed);

  CHECK_EQ(run({"/no/such/program"}).guest_errno, static_cast<uint32_t>(ENOENT));
  CHECK_EQ(run({"/etc/passwd"}).guest_errno, static_cast<uint32_t>(EACCES));
  CHECK_EQ(run({"/etc/passwd/x"}).guest_errno, static_cast<uint32_t>(ENOTDIR));

  const auto service = make_service();
  TestHost host(*service);
  host.start({"/bin/true"}, {}, "/no/such/directory");
  const Transcript& said = host.finish();
  CHECK_EQ(said.guest_errno, static_cast<uint32_t>(ENOENT));
  CHECK_UNARY(said.failure.find("/no/such/directory") != std::string::npos);
}

TEST_CASE("standard input reaches the command, ends when told, and comes back whole") {
  const auto service = make_service();
  TestHost host(*service);
  host.start({"cat"});
  std::string bytes(3'000'000, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 31 >> 3);
  host.send_stdin(bytes);
  host.send_stdin_end();
  const Transcript& said = host.finish();
  CHECK_UNARY(said.stdout_bytes == bytes);
  CHECK_EQ(said.exit_code, 0u);
}

TEST_CASE("a command that never reads its input does not hold up its output or its exit") {
  const auto service = make_service();
  TestHost host(*service);
  host.start(shell("exec 0<&-; echo closed; sleep 0.1; exit 3"));
  host.send_stdin(std::string(1'000'000, 'x'));
  const Transcript& said = host.finish();
  CHECK_EQ(said.stdout_bytes, "closed\n");
  CHECK_EQ(said.exit_code, 3u);
}

TEST_CASE("a big output survives a slow reader, byte for byte, in bounded memory") {
  const auto service = make_service();
  TestHost host(*service);
  host.start(shell("seq 1 400000; exit 5"));
  REQUIRE_UNARY(host.wait_for_start());
  // The agent runs on while nobody reads: the command must block, not fill the agent.
  drive(*service, 200);
  CHECK_UNARY(alive(host.transcript().started));
  while (host.read_some(777)) (void)service->step(monotonic_ns());
  std::string expected;
  for (int i = 1; i <= 400000; ++i) expected += std::to_string(i) + "\n";
  CHECK_UNARY(host.transcript().stdout_bytes == expected);
  CHECK_EQ(host.transcript().exit_code, 5u);
}

TEST_CASE("output left in the pipes at the exit is delivered before it") {
  const Transcript said = run(shell("head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2"));
  CHECK_EQ(said.stdout_bytes.size(), 60000u);
  CHECK_EQ(said.stderr_bytes.size(), 60000u);
  CHECK_UNARY(said.exited);
}

TEST_CASE("a background process that keeps the pipe open does not hold back the exit") {
  const uint64_t begin = monotonic_ns();
  const Transcript said = run(shell("sleep 5 & echo started; exit 4"));
  CHECK_EQ(said.stdout_bytes, "started\n");
  CHECK_EQ(said.exit_code, 4u);
  CHECK_LT(monotonic_ns() - begin, 4'000'000'000u);
}

TEST_CASE("a background process that writes without end does not hold back the exit") {
  const Transcript said =
      run(shell("(trap '' PIPE; while echo y 2>/dev/null; do :; done) & sleep 0.1; exit 6"));
  CHECK_EQ(said.exit_code, 6u);
}

TEST_CASE("signals go to the whole process group") {
  const auto service = make_service();
  TestHost host(*service);
  host.start(shell("trap 'echo caught; exit 9' INT; sleep 30 & echo ready; wait"));
  REQUIRE_UNARY(host.wait_for_output("ready"));
  host.send_signal(SIGINT);
  const Transcript& said = host.finish();
  CHECK_UNARY(said.stdout_bytes.ends_with("caught\n"));
  CHECK_EQ(said.exit_code, 9u);
}

TEST_CASE("a command whose host has gone gets SIGHUP") {
  const auto service = make_service();
  TestHost host(*service);
  host.start(shell("echo ready; sleep 30"));
  REQUIRE_UNARY(host.wait_for_output("ready"));
  const uint32_t pid = host.transcript().started;
  host.close();
  drive(*service, 1500);
  CHECK_EQ(service->connections(), 0u);
  CHECK_UNARY(!alive(pid));
}

TEST_CASE("a command that ignores SIGHUP gets SIGKILL") {
  const auto service = make_service();
  TestHost host(*service);
  host.start(shell("trap '' HUP; echo ready; while :; do sleep 1; done"));
  REQUIRE_UNARY(host.wait_for_output("ready"));
  const uint32_t pid = host.transcript().started;
  host.close();
  drive(*service, 500);
  CHECK_UNARY(alive(pid));
  drive(*service, 5000);
  CHECK_EQ(service->connections(), 0u);
  CHECK_UNARY(!alive(pid));
}

TEST_CASE("a hang-up is noticed while the command's input is full") {
  const auto service = make_service();
  TestHost host(*service);
  host.start(shell("echo ready; sleep 30"));
  REQUIRE_UNARY(host.wait_for_output("ready"));
  // More than pipe and backlog hold; less than those and the socket.
  host.send_stdin(std::string(kMaxBacklog + 96 * 1024, 'x'));
  host.close();
  drive(*service, 1500);
  CHECK_EQ(service->connections(), 0u);
}

TEST_CASE("when every connection ends at once, in whatever state, nothing is left of any") {
  const auto descriptors = [] {
    const std::filesystem::directory_iterator entries("/proc/self/fd");
    return std::distance(begin(entries), end(entries));
  };
  const auto service = make_service();
  const auto before = descriptors();
  std::vector<std::unique_ptr<TestHost>> hosts;
  const auto add = [&]() -> TestHost& {
    return *hosts.emplace_back(std::make_unique<TestHost>(*service));
  };
  add();                         // has said nothing yet
  add().start({"sleep", "30"});  // is being started
  TestHost& asleep = add();
  asleep.start(shell("echo ready; sleep 30"));
  TestHost& loud = add();
  loud.start({"yes"});  // fills its output
  TestHost& fed = add();
  fed.start({"sleep", "30"});
  TestHost& over = add();
  over.start({"true"});
  REQUIRE_UNARY(asleep.wait_for_output("ready"));
  REQUIRE_UNARY(loud.wait_for_output("y"));
  REQUIRE_UNARY(fed.wait_for_start());
  fed.send_stdin(std::string(kMaxBacklog / 2, 'x'));
  REQUIRE_UNARY(over.wait_for_start());
  add().start({"sleep", "30"});
  hosts.clear();
  drive(*service, 5000);
  CHECK_EQ(service->connections(), 0u);
  CHECK_EQ(descriptors(), before);
  CHECK_UNARY(!service->reap());
  TestHost after(*service);
  after.start({"true"});
  CHECK_UNARY(after.finish().exited);
}

TEST_CASE("a terminal is one: it has a size, echoes, and ends input by its own character") {
  if (::access("/dev/ptmx", R_OK | W_OK) != 0) {
    MESSAGE("skipped: no /dev/ptmx here");
    return;
  }
  const auto service = make_service();
  TestHost host(*service);
  host.start(shell("stty size; test -t 0 && test -t 1 && test -t 2 && echo tty; read a; stty size; "
                   "cat; exit 2"),
             {}, "/", true);
  REQUIRE_UNARY(host.wait_for_output("tty"));
  host.send_window(50, 132);
  host.send_stdin("go\n");
  REQUIRE_UNARY(host.wait_for_output("50 132"));
  host.send_stdin("line\n");
  host.send_stdin_end();
  const Transcript& said = host.finish();
  CHECK_UNARY(said.stdout_bytes.starts_with("24 80\r\ntty\r\n"));
  CHECK_UNARY(said.stdout_bytes.find("line\r\nline\r\n") != std::string::npos);
  CHECK_EQ(said.exit_code, 2u);
  CHECK_UNARY(said.stderr_bytes.empty());
}

TEST_CASE("a terminal's last output is not lost at the exit") {
  if (::access("/dev/ptmx", R_OK | W_OK) != 0) {
    MESSAGE("skipped: no /dev/ptmx here");
    return;
  }
  for (int round = 0; round < 20; ++round) {
    const auto service = make_service();
    TestHost host(*service);
    host.start(shell("head -c 3000 /dev/zero | tr '\\0' x; echo end"), {}, "/", true);
    CHECK_UNARY(host.finish().stdout_bytes.ends_with("xend\r\n"));
    CHECK_EQ(host.transcript().stdout_bytes.size(), 3005u);
  }
}

TEST_CASE("anything but start as the first message is refused") {
  for (const char* bytes :
       {"\x02\0\0\0\x20\x09", "\x01\0\0\0\xff", "\xff\xff\xff\xff", "\x00\0\0\0"}) {
    const auto service = make_service();
    TestHost host(*service);
    host.send_raw(std::string(bytes, bytes[0] == 2 ? 6 : bytes[0] == 1 ? 5 : 4));
    const Transcript& said = host.finish();
    CHECK_UNARY(said.failed);
    CHECK_EQ(said.guest_errno, static_cast<uint32_t>(EPROTO));
    CHECK_UNARY(said.closed);
  }
}

TEST_CASE("an empty argv is refused") {
  const Transcript said = run({});
  CHECK_UNARY(said.failed);
  CHECK_UNARY(said.failure.starts_with("argv"));
}

TEST_CASE("a malformed message to a running command ends it") {
  const auto service = make_service();
  TestHost host(*service);
  host.start(shell("echo ready; sleep 30"));
  REQUIRE_UNARY(host.wait_for_output("ready"));
  const uint32_t pid = host.transcript().started;
  host.send_raw("\xff\xff\xff\xff");
  CHECK_UNARY(host.finish().closed);
  drive(*service, 1500);
  CHECK_UNARY(!alive(pid));
}

TEST_CASE("a guest that could not be set up refuses commands and says why") {
  const auto service = make_service("root=/dev/vda: no such device");
  TestHost host(*service);
  host.start({"true"});
  const Transcript& said = host.finish();
  CHECK_UNARY(said.failed);
  CHECK_UNARY(said.failure.find("root=/dev/vda: no such device") != std::string::npos);
}

TEST_CASE("many commands run at once, and the one too many is told so") {
  const auto service = make_service();
  std::vector<std::unique_ptr<TestHost>> hosts;
  for (size_t i = 0; i < kMaxCommands; ++i) {
    hosts.push_back(std::make_unique<TestHost>(*service));
    hosts.back()->start(shell("read line; echo got $line"));
  }
  TestHost late(*service);
  late.start({"true"});
  CHECK_EQ(late.finish().guest_errno, static_cast<uint32_t>(EAGAIN));
  for (size_t i = 0; i < hosts.size(); ++i) hosts[i]->send_stdin(std::to_string(i) + "\n");
  for (size_t i = 0; i < hosts.size(); ++i) {
    CHECK_EQ(hosts[i]->finish().stdout_bytes, "got " + std::to_string(i) + "\n");
  }
  drive(*service, 3000);
  CHECK_EQ(service->connections(), 0u);
  TestHost after(*service);
  after.start({"true"});
  CHECK_UNARY(after.finish().exited);
}

}  // namespace
}  // namespace mayfly::guest
