// SPDX-License-Identifier: Apache-2.0
//
// The programs mayfly and mayflyd as a user meets them, over the fake monitor: what they print, how
// they exit, and that they leave nothing behind.
#include "cli/client.h"

#include <doctest/doctest.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace mayfly;
using namespace mayfly::cli;
namespace fs = std::filesystem;

namespace {

std::string runfile(const std::string& path) {
  return std::string(std::getenv("TEST_SRCDIR")) + "/" + std::getenv("TEST_WORKSPACE") + "/" + path;
}

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::string read_file(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

/// A directory with a guest, a runtime directory that must be empty in the end, and the programs'
/// environment.
class Host {
 public:
  Host() {
    std::string name = (fs::temp_directory_path() / "cli_test.XXXXXX").string();
    root = ::mkdtemp(name.data());
    fs::create_directories(root / "guest");
    fs::create_directories(runtime());
    for (const auto& [file, bytes] :
         {std::pair("vmlinux", 4096), {"rootfs.ext4", 8192}, {"agent.cpio", 512}}) {
      std::ofstream(root / "guest" / file) << std::string(static_cast<size_t>(bytes), 'x');
    }
    ::unsetenv("MAYFLY_SOCKET");
    ::setenv("XDG_RUNTIME_DIR", runtime().c_str(), 1);
    ::setenv("MAYFLY_GUEST_DIR", (root / "guest").c_str(), 1);
    ::setenv("MAYFLY_DAEMON", runfile("daemon/mayflyd").c_str(), 1);
    ::setenv("MAYFLY_VMM", runfile("daemon/testing/fake_vmm").c_str(), 1);
    ::setenv("MAYFLY_JAILER", runfile("jailer/mayfly-jailer").c_str(), 1);
    ::setenv("MAYFLY_KVM_DEVICE", "/dev/null", 1);
    // The fake monitor runs its guests' commands on this host.
    ::setenv("MAYFLY_JAIL", "off", 1);
  }
  ~Host() { fs::remove_all(root); }

  fs::path runtime() const { return root / "run"; }
  std::string socket() const { return root / "d.sock"; }

  /// Starts a program; standard input from a file, output to files.
  pid_t start(const std::string& program, std::vector<std::string> words,
              const std::string& input = "") {
    std::ofstream(root / "in") << input;
    std::vector<char*> argv = {const_cast<char*>(program.c_str())};
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    const int in = ::open((root / "in").c_str(), O_RDONLY | O_CLOEXEC);
    const int out = ::open((root / "out").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    const int err = ::open((root / "err").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::dup2(in, 0), ::dup2(out, 1), ::dup2(err, 2);
      ::execv(argv[0], argv.data());
      ::_exit(99);
    }
    ::close(in), ::close(out), ::close(err);
    return pid;
  }
  Outcome wait(pid_t pid) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), read_file(root / "out"),
            read_file(root / "err")};
  }
  Outcome mayfly(std::vector<std::string> words, const std::string& input = "") {
    return wait(start(runfile("cli/mayfly"), std::move(words), input));
  }
  bool nothing_left() const { return fs::is_empty(runtime()); }

  /// Waits until a file's text has something in it.
  bool wait_for_text(const char* file, const std::string& text) const {
    for (int i = 0; i < 1000; ++i) {
      if (has(read_file(root / file), text)) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  fs::path root;
};

/// A daemon that runs for as long as this lives.
class Daemon {
 public:
  explicit Daemon(Host& host) : host_(host) {
    pid_ = host.start(runfile("daemon/mayflyd"),
                      {"--socket", "unix:" + host.socket(), "--kvm-device", "/dev/null", "--vmm",
                       runfile("daemon/testing/fake_vmm"), "--jail", "off", "--jailer",
                       runfile("jailer/mayfly-jailer"), "--agent-initrd",
                       (host.root / "guest/agent.cpio").string()});
    fs::rename(host.root / "err", host.root / "daemon_err");
    REQUIRE(host.wait_for_text("daemon_err", "serving on"));
    ::setenv("MAYFLY_SOCKET", ("unix:" + host.socket()).c_str(), 1);
  }
  ~Daemon() {
    if (pid_ != 0) stop();
  }
  int stop(int signal = SIGTERM) {
    ::kill(pid_, signal);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  void create(const std::string& id, const std::string& words = "") {
    const Outcome made =
        host_.mayfly({"create", id, "--start", "--memory-mib", "16", "--cmdline", words});
    INFO(made.err);
    REQUIRE(made.code == 0);
  }

 private:
  Host& host_;
  pid_t pid_ = 0;
};

}  // namespace

TEST_CASE("run gives the command's output, errors and exit code, and leaves nothing") {
  Host host;
  const Outcome ran =
      host.mayfly({"run", "--", "sh", "-c", "cat; echo problem >&2; exit 7"}, "some\0input");
  CHECK(ran.code == 7);
  CHECK(ran.out == "some");
  CHECK(ran.err == "problem\n");
  CHECK(host.nothing_left());
}

TEST_CASE("run passes bytes through untouched, and environment and directory on") {
  Host host;
  std::string bytes;
  for (unsigned i = 0; i < 1'000'000; ++i) bytes.push_back(static_cast<char>(i * 7919 >> 3));
  CHECK(host.mayfly({"run", "--", "cat"}, bytes).out == bytes);
  CHECK(
      host.mayfly({"run", "--env", "A=b c", "--workdir", "/usr", "--", "sh", "-c", "echo $A; pwd"})
          .out == "b c\n/usr\n");
}

TEST_CASE("run tells where the time went, for people and machines") {
  Host host;
  const Outcome ran = host.mayfly({"run", "--timing", "--json", "--", "true"});
  CHECK(ran.code == 0);
  CHECK(ran.out.empty());
  for (const char* row : {"daemon start", "create and start", "  spawn", "kernel to init",
                          "command", "total", "\"exitCode\":0", "\"state\":\"VM_STATE_STOPPED\""}) {
    CAPTURE(row);
    CHECK(has(ran.err, row));
  }
}

TEST_CASE("a command that is not there is 127, by a signal 128 more, a timeout 124") {
  Host host;
  CHECK(host.mayfly({"run", "--", "no-such-command"}).code == 127);
  CHECK(host.mayfly({"run", "--", "sh", "-c", "kill -9 $$"}).code == 137);
  CHECK(host.mayfly({"run", "--timeout", "0.5", "--", "sleep", "100"}).code == 124);
  CHECK(host.mayfly({"run", "--timeout", "0.5", "--cmdline", "fake.no_hello", "--", "true"}).code ==
        124);
  CHECK(host.nothing_left());
}

TEST_CASE("a guest that ends before it is ready is told of with its reason and its console") {
  Host host;
  const Outcome ran = host.mayfly({"run", "--cmdline", "fake.exit=3 fake.print=100", "--", "true"});
  CHECK(ran.code == 125);
  CHECK(has(ran.err, "panicked"));
  CHECK(has(ran.err, "line 0000000001"));
  CHECK(host.nothing_left());
}

TEST_CASE("bad input is refused with 125, the reason and what to do, and leaves nothing") {
  Host host;
  const auto refused = [&](std::vector<std::string> words, const char* reason, const char* text) {
    words.insert(words.begin(), "run");
    words.insert(words.end(), {"--", "true"});
    const Outcome ran = host.mayfly(words);
    INFO(ran.err);
    CHECK(ran.code == 125);
    CHECK(has(ran.err, reason));
    CHECK(has(ran.err, text));
  };
  refused({"--vcpus", "33"}, "VCPU_COUNT", "32");
  refused({"--vcpus", "0"}, "VCPU_COUNT", "vcpus: 0");
  refused({"--memory-mib", "1"}, "MEMORY_SIZE", "16");
  refused({"--memory-mib", "100000000"}, "MEMORY_SIZE", "host's memory");
  refused({"--kernel", "/nonexistent"}, "FILE_NOT_FOUND", "kernel_path: cannot open /nonexistent");
  refused({"--rootfs", "/tmp"}, "NOT_A_FILE", "directory");
  refused({"--cmdline", std::string(3000, 'c')}, "CMDLINE_TOO_LONG", "2047");
  refused({"--cmdline", "fake.refuse"}, "KERNEL_FORMAT", "bzImage");
  CHECK(host.mayfly({"run"}).code == 125);
  CHECK(host.mayfly({"no-such-command"}).code == 125);
  CHECK(host.nothing_left());
}

TEST_CASE("an interrupt goes to the command, a second one ends the VM, and nothing is left") {
  Host host;
  const pid_t first =
      host.start(runfile("cli/mayfly"), {"run", "--", "sh", "-c", "echo up; sleep 100"});
  REQUIRE(host.wait_for_text("out", "up"));
  ::kill(first, SIGINT);
  CHECK(host.wait(first).code == 130);
  const pid_t second =
      host.start(runfile("cli/mayfly"),
                 {"run", "--", "sh", "-c", "trap '' INT; echo up; sleep 100 & wait; sleep 100"});
  REQUIRE(host.wait_for_text("out", "up"));
  ::kill(second, SIGINT);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  ::kill(second, SIGINT);
  CHECK(host.wait(second).code == 130);
  CHECK(host.nothing_left());
}

TEST_CASE("a killed mayfly takes its daemon and VM with it") {
  Host host;
  const pid_t pid =
      host.start(runfile("cli/mayfly"), {"run", "--", "sh", "-c", "echo up; sleep 100"});
  REQUIRE(host.wait_for_text("out", "up"));
  CHECK_FALSE(host.nothing_left());
  ::kill(pid, SIGKILL);
  host.wait(pid);
  for (int i = 0; i < 500 && !host.nothing_left(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  CHECK(host.nothing_left());
}

TEST_CASE("a VM's life by single commands") {
  Host host;
  Daemon daemon(host);
  CHECK(host.mayfly({"create", "a", "--memory-mib", "16"}).out == "a CREATED\n");
  const Outcome twice = host.mayfly({"create", "a"});
  CHECK(twice.code == 125);
  CHECK(has(twice.err, "VM_EXISTS"));
  CHECK(host.mayfly({"start", "a"}).out == "a RUNNING\n");
  CHECK(host.mayfly({"wait", "a", "--ready"}).code == 0);
  CHECK(host.mayfly({"exec", "a", "--", "sh", "-c", "exit 3"}).code == 3);
  CHECK(host.mayfly({"exec", "a", "-n", "--env", "A=1", "--", "sh", "-c", "echo $A -- $0"}).out ==
        "1 -- sh\n");
  CHECK(host.mayfly({"exec", "a", "echo", "plain"}).out == "plain\n");
  CHECK(host.mayfly({"pause", "a"}).out == "a PAUSED\n");
  CHECK(host.mayfly({"resume", "a"}).out == "a RUNNING\n");
  CHECK(has(host.mayfly({"ls"}).out, "RUNNING"));
  CHECK(has(host.mayfly({"ls", "--json"}).out, "\"vmId\": \"a\""));
  CHECK(has(host.mayfly({"inspect", "a"}).out, "VM_STATE_RUNNING"));
  CHECK(has(host.mayfly({"console", "a"}).out, "fake guest:"));
  CHECK(has(host.mayfly({"rm", "a"}).err, "VM_STATE"));
  CHECK(host.mayfly({"stop", "a"}).out == "a STOPPED (guest-poweroff)\n");
  CHECK(host.mayfly({"wait", "a"}).code == 0);
  CHECK(host.mayfly({"rm", "a"}).code == 0);
  CHECK(has(host.mayfly({"inspect", "a"}).err, "VM_NOT_FOUND"));
  const Outcome events = host.mayfly({"events", "--all", "--timeout", "0.3"});
  CHECK(has(events.out, "CREATING -> CREATED"));
  CHECK(has(events.out, "exited: guest-poweroff"));
  CHECK(has(events.out, "deleted"));
  CHECK(has(host.mayfly({"version"}).out, "mayflyd"));
  CHECK(has(host.mayfly({"doctor"}).out, "kvm"));
}

TEST_CASE("a balloon is made, and its target changed") {
  Host host;
  Daemon daemon(host);
  const auto refused = [&](std::vector<std::string> words, const char* text) {
    CAPTURE(text);
    const Outcome outcome = host.mayfly(words);
    CHECK(outcome.code == 125);
    INFO(outcome.err);
    CHECK(has(outcome.err, text));
  };
  refused({"create", "a", "--balloon", "many"}, "--balloon: \"many\" is not a number of MiB first");
  refused({"create", "a", "--balloon", "1,oom"}, "--balloon: \"oom\"");
  refused({"create", "a", "--balloon", "1,stats=x"}, "--balloon: \"stats=x\"");
  refused({"create", "a", "--balloon", "1,stats=86401"}, "balloon.stats_interval_s: 86401");
  refused({"create", "a", "--memory-mib", "16", "--balloon", "17"}, "balloon.target_mib: 17");
  CHECK(host.mayfly({"create", "a", "--memory-mib", "16", "--balloon",
                     "2,deflate-on-oom,reporting,stats=10"})
            .code == 0);
  const std::string made = host.mayfly({"inspect", "a"}).out;
  CHECK(has(made, "\"deflateOnOom\": true"));
  CHECK(has(made, "\"freePageReporting\": true"));
  CHECK(has(made, "\"statsIntervalS\": 10"));
  CHECK(has(made, "\"targetMib\": \"2\""));
  CHECK(has(made, "\"freeBytes\": \"12345\""));
  CHECK(host.mayfly({"update", "a", "--balloon-target", "12"}).out == "a CREATED\n");
  CHECK(has(host.mayfly({"inspect", "a"}).out, "\"targetMib\": \"12\""));
  refused({"update", "a"}, "update_mask: names no field; what can be changed: balloon.target_mib");
  refused({"update", "a", "--balloon-target", "17"}, "balloon.target_mib: 17 is above");
  refused({"update", "b", "--balloon-target", "1"}, "VM_NOT_FOUND");
}

TEST_CASE("a denied system call is told by its name") {
  Host host;
  Daemon daemon(host);
  CHECK(host.mayfly({"create", "a", "--cmdline", "fake.denied=vcpu", "--start"}).code == 0);
  CHECK(host.mayfly({"wait", "a"}).code == 0);
  CHECK(has(host.mayfly({"ls"}).out, "syscall-denied, signal 31: openat (257), thread vcpu"));
  const Outcome events = host.mayfly({"events", "--all", "--timeout", "0.3"});
  CHECK(has(events.out, "a system call that is denied to it: openat (257), thread vcpu"));
  CHECK(has(host.mayfly({"inspect", "a"}).out, "\"reason\": \"EXIT_REASON_SYSCALL_DENIED\""));
}

TEST_CASE("limits that make no sense are refused with the flag or the field") {
  Host host;
  Daemon daemon(host);
  const auto refused = [&](std::vector<std::string> words, const char* text) {
    CAPTURE(text);
    words.insert(words.begin(), {"create", "a"});
    const Outcome outcome = host.mayfly(words);
    CHECK(outcome.code == 125);
    INFO(outcome.err);
    CHECK(has(outcome.err, text));
  };
  refused({"--cpus", "0"}, "limits.cpu_milli: 0 is not within 10");
  refused({"--cpus", "-1"}, "limits.cpu_milli: 0 is not within 10");
  refused({"--cpus", "1e30"}, "limits.cpu_milli");
  refused({"--cpus", "many"}, "--cpus");
  refused({"--cpu-weight", "10001"}, "limits.cpu_weight: 10001");
  refused({"--memory-limit-mib", "1"}, "limits.memory_mib: 1 is below");
  refused({"--pids-max", "1"}, "limits.pids_max: 1 ");
  refused({"--disk-limit", "vdz,read-ops=1"}, "\"vdz\" is none of this VM's 1 disks");
  refused({"--disk-limit", "vda,read-ops"}, "\"read-ops\" is not KEY=NUMBER");
  refused({"--disk-limit", "vda,speed=1"}, "\"speed=1\" is not KEY=NUMBER");
  refused({"--disk-limit", "vda,read-ops=1x"}, "\"read-ops=1x\" is not KEY=NUMBER");
  refused({"--disk-limit", "vda,read-bytes=1"}, "rootfs.limits.read_bytes_per_s: 1 ");
  refused({"--cpus", "0.5"}, "--jail=off");
  CHECK(has(host.mayfly({"run", "--jail", "off", "--", "true"}).err, "runs already"));
}

TEST_CASE("an attached console takes input, and a follower ends with the VM") {
  Host host;
  Daemon daemon(host);
  daemon.create("a");
  const Outcome attached = host.mayfly({"console", "a", "--attach", "--timeout", "1"}, "hello\n");
  CHECK(has(attached.out, "you said: hello"));
  const pid_t follower = host.start(runfile("cli/mayfly"), {"console", "a", "-f"});
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  ::setenv("MAYFLY_SOCKET", ("unix:" + host.socket()).c_str(), 1);
  auto client = Client::connect("unix:" + host.socket());
  v1::StopVmRequest stop;
  stop.set_vm_id("a");
  CHECK(client->call(stop));
  CHECK(host.wait(follower).code == 0);
}

TEST_CASE("without a daemon the message says how to get one") {
  Host host;
  const Outcome listed = host.mayfly({"--socket", "unix:/nonexistent/d.sock", "ls"});
  CHECK(listed.code == 125);
  CHECK(has(listed.err, "mayflyd"));
  CHECK(has(listed.err, "NO_DAEMON"));
}

TEST_CASE("a socket in use and a path too long are refused; a dead daemon's socket is taken over") {
  Host host;
  {
    Daemon daemon(host);
    const Outcome second = host.wait(
        host.start(runfile("daemon/mayflyd"),
                   {"--socket", "unix:" + host.socket(), "--state-dir", (host.root / "s2").string(),
                    "--vmm", runfile("daemon/testing/fake_vmm"), "--jail", "off", "--jailer",
                    runfile("jailer/mayfly-jailer")}));
    CHECK(second.code == 1);
    CHECK(has(second.err, host.socket() + " is in use"));
    const Outcome same_state = host.wait(host.start(
        runfile("daemon/mayflyd"),
        {"--socket", "unix:" + host.socket() + "2", "--vmm", runfile("daemon/testing/fake_vmm"),
         "--jail", "off", "--jailer", runfile("jailer/mayfly-jailer")}));
    CHECK(same_state.code == 1);
    CHECK(has(same_state.err, "--state-dir"));
    daemon.stop(SIGKILL);
  }
  CHECK(fs::exists(host.socket()));
  Daemon again(host);
  CHECK(host.mayfly({"ls"}).code == 0);
  const std::string path = "/tmp/" + std::string(120, 'x');
  const Outcome too_long = host.wait(host.start(
      runfile("daemon/mayflyd"), {"--socket", path, "--vmm", runfile("daemon/testing/fake_vmm"),
                                  "--jail", "off", "--jailer", runfile("jailer/mayfly-jailer")}));
  CHECK(too_long.code == 1);
  CHECK(has(too_long.err, "107"));
  CHECK(has(too_long.err, path));
}

TEST_CASE("a daemon told to stop with VMs running ends them and cleans up") {
  Host host;
  Daemon daemon(host);
  daemon.create("good");
  daemon.create("stubborn", "fake.ignore_shutdown fake.hang_stop");
  daemon.create("early", "fake.no_hello");
  CHECK(daemon.stop() == 0);
  CHECK_FALSE(fs::exists(host.socket()));
  CHECK_FALSE(fs::exists(host.root / "state"));
}

TEST_CASE("fields that the daemon does not know are refused by their number") {
  Host host;
  Daemon daemon(host);
  auto client = Client::connect("unix:" + host.socket());
  v1::CreateVmRequest request;
  request.set_vm_id("a");
  request.mutable_spec()
      ->GetReflection()
      ->MutableUnknownFields(request.mutable_spec())
      ->AddVarint(999, 1);
  const auto created = client->call(request);
  REQUIRE_FALSE(created);
  CHECK(created.error().reason() == "UNKNOWN_FIELD");
  CHECK(has(created.error().message(), "999"));
}

TEST_CASE("an exec ends for a client that keeps its own side open") {
  Host host;
  Daemon daemon(host);
  daemon.create("a");
  auto client = Client::connect("unix:" + host.socket());
  auto stream = client->exec();
  v1::ExecRequest request;
  request.mutable_start()->set_vm_id("a");
  request.mutable_start()->add_argv("true");
  REQUIRE(stream->write(request));
  v1::ExecResponse response;
  bool exited = false;
  while (stream->read(response)) exited = exited || response.has_exited();
  CHECK(exited);
  CHECK(stream->finish());
}

TEST_CASE("the Python example runs against a daemon as it stands") {
  Host host;
  Daemon daemon(host);
  const Outcome ran =
      host.wait(host.start("/usr/bin/python3", {runfile("examples/python/first_vm.py"), "--socket",
                                                "unix:" + host.socket(), "--kernel",
                                                (host.root / "guest/vmlinux").string(), "--rootfs",
                                                (host.root / "guest/rootfs.ext4").string()}));
  INFO(ran.err);
  CHECK(ran.code == 0);
  CHECK(has(ran.out, "ready: Linux 0.0.0-fake"));
  CHECK(has(ran.out, "fake guest:"));
  CHECK(has(ran.out, "deleted first"));
}
