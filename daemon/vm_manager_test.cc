// SPDX-License-Identifier: Apache-2.0
#include "daemon/vm_manager.h"

#include "daemon/exec_session.h"
#include "daemon/testing/rig.h"

#include <doctest/doctest.h>

#include <csignal>
#include <thread>

#include <unistd.h>

using namespace mayfly;
using namespace mayfly::daemon;
using namespace mayfly::daemon::testing;

namespace {

Call in_ms(int ms) { return Call::within(std::chrono::milliseconds(ms)); }

VmView wait_stopped(Rig& rig, const std::string& id) {
  auto view = rig.manager->wait(id, {.states = {VmState::kStopped}}, soon());
  REQUIRE(view);
  REQUIRE(view->exit);
  return *view;
}

struct Output {
  std::string out;
  std::string err;
  int exit_code = -1;
};

Output run_to_end(ExecSession& session) {
  Output result;
  for (;;) {
    auto output = session.next(soon());
    REQUIRE(output);
    if (auto* out = std::get_if<ExecStdout>(&*output)) result.out += out->bytes;
    if (auto* err = std::get_if<ExecStderr>(&*output)) result.err += err->bytes;
    if (auto* exited = std::get_if<ExecExited>(&*output)) {
      result.exit_code = static_cast<int>(exited->exit_code);
      return result;
    }
  }
}

}  // namespace

TEST_CASE("a VM goes through its states, and says how long it took") {
  Rig rig;
  auto created = rig.manager->create(rig.request("a", "", false), soon());
  REQUIRE(created);
  CHECK(created->vm.state == VmState::kCreated);
  CHECK(created->vm.monitor_pid > 0);
  CHECK(created->times.phases.size() >= 10);
  CHECK(rig.manager->pause("a", soon()).error().reason() == "VM_STATE");
  CHECK(rig.manager->start("a", soon())->vm.state == VmState::kRunning);
  CHECK(rig.manager->start("a", soon()).error().reason() == "VM_STATE");
  const auto ready = rig.manager->wait("a", {.states = {}, .guest_ready = true}, soon());
  REQUIRE(ready);
  CHECK(ready->guest->kernel_release == "0.0.0-fake");
  CHECK(ready->guest->start_to_ready_us > 0);
  CHECK(rig.manager->pause("a", soon())->vm.state == VmState::kPaused);
  CHECK(rig.manager->resume("a", soon())->vm.state == VmState::kRunning);
  CHECK(rig.manager->remove("a", false, soon()).error().reason() == "VM_STATE");
  const auto stopped = rig.manager->stop("a", std::nullopt, soon());
  REQUIRE(stopped);
  CHECK(stopped->vm.state == VmState::kStopped);
  CHECK(stopped->vm.exit->reason == ExitReason::kGuestPoweroff);
  CHECK(rig.manager->start("a", soon()).error().reason() == "VM_STOPPED");
  CHECK(rig.manager->remove("a", false, soon()));
  CHECK(rig.manager->get("a").error().code() == Code::kNotFound);
}

TEST_CASE("every kind of failed create leaves no process, directory or descriptor") {
  Rig rig;
  REQUIRE(rig.manager->create(rig.request("first", "", false), soon()));
  REQUIRE(rig.manager->remove("first", true, soon()));
  const size_t descriptors = open_descriptors();
  const auto fails = [&](const char* reason, const CreateRequest& request, const Call& call) {
    CAPTURE(reason);
    const auto result = rig.manager->create(request, call);
    REQUIRE_FALSE(result);
    INFO(result.error().message());
    CHECK(result.error().reason() == reason);
    CHECK(open_descriptors() == descriptors);
    CHECK(count_entries(rig.vms_dir()) == 0);
    CHECK(child_processes() == 0);
    CHECK(rig.manager->vm_count() == 0);
  };
  fails("KERNEL_FORMAT", rig.request("a", "fake.refuse"), soon());
  fails("MONITOR_GONE", rig.request("a", "fake.crash_configure"), soon());
  fails("MONITOR_GONE", rig.request("a", "fake.garbage"), soon());
  fails("DEADLINE_EXCEEDED", rig.request("a", "fake.hang_configure"), in_ms(200));
  fails("ID_BAD", rig.request("A"), soon());
  CreateRequest missing = rig.request("a");
  missing.spec.kernel_path = rig.path("none");
  fails("FILE_NOT_FOUND", missing, soon());
  missing = rig.request("a");
  missing.spec.disks.push_back({.path = rig.path("kernel"), .read_only = false, .serial = ""});
  missing.spec.disks.push_back({.path = rig.path("none"), .read_only = false, .serial = ""});
  fails("FILE_NOT_FOUND", missing, soon());
}

TEST_CASE("a monitor that crashes in its configuration is told of with its signal") {
  Rig rig;
  const auto result = rig.manager->create(rig.request("a", "fake.crash_configure"), soon());
  CHECK(result.error().message().find("signal 6") != std::string::npos);
}

TEST_CASE("an id is taken once, and a repeated request is answered with the same VM") {
  Rig rig;
  CreateRequest request = rig.request("a");
  request.request_id = "r1";
  const auto first = rig.manager->create(request, soon());
  REQUIRE(first);
  const auto second = rig.manager->create(request, soon());
  REQUIRE(second);
  CHECK(second->vm.incarnation == first->vm.incarnation);
  CHECK(second->times.phases.size() == first->times.phases.size());
  request.request_id = "r2";
  CHECK(rig.manager->create(request, soon()).error().code() == Code::kAlreadyExists);
  request.request_id = "";
  CHECK(rig.manager->create(request, soon()).error().reason() == "VM_EXISTS");
}

TEST_CASE("each way for a VM to end has its reason") {
  Rig rig;
  const auto ends = [&](const std::string& words, ExitReason reason) {
    CAPTURE(words);
    REQUIRE(rig.manager->create(rig.request("a", words), soon()));
    const VmView view = wait_stopped(rig, "a");
    CHECK(view.exit->reason == reason);
    CHECK(view.monitor_pid == 0);
    REQUIRE(rig.manager->remove("a", false, soon()));
    return *view.exit;
  };
  ends("fake.exit=1", ExitReason::kGuestPoweroff);
  ends("fake.exit=2", ExitReason::kGuestReboot);
  CHECK(ends("fake.exit=3", ExitReason::kGuestPanic).detail == "as told");
  ends("fake.exit=4", ExitReason::kTripleFault);
  CHECK(ends("fake.crash", ExitReason::kMonitorKilled).signal == SIGABRT);
  CHECK(ends("fake.status=9", ExitReason::kMonitorError).exit_status == 9);
  const VmExit denied = ends("fake.denied=vcpu", ExitReason::kSyscallDenied);
  CHECK(denied.signal == SIGSYS);
  REQUIRE(denied.denied_syscall);
  CHECK(denied.denied_syscall->thread == "vcpu");
  CHECK(denied.denied_syscall->number == 257);
  const VmExit speechless = ends("fake.sigsys", ExitReason::kSyscallDenied);
  CHECK(speechless.signal == SIGSYS);
  CHECK_FALSE(speechless.denied_syscall);
  const VmExit talkative = ends("fake.stderr fake.exit=1", ExitReason::kGuestPoweroff);
  CHECK(talkative.stderr_tail.size() == kMaxStderrTailBytes);
  CHECK(child_processes() == 0);
}

TEST_CASE("a monitor killed from outside is told of by its signal, and the others run on") {
  Rig rig;
  const auto victim = rig.manager->create(rig.request("victim"), soon());
  REQUIRE(rig.manager->create(rig.request("other"), soon()));
  EventCursor cursor = rig.events.from_now();
  ::kill(victim->vm.monitor_pid, SIGKILL);
  const VmView view = wait_stopped(rig, "victim");
  CHECK(view.exit->reason == ExitReason::kMonitorKilled);
  CHECK(view.exit->signal == SIGKILL);
  CHECK(rig.manager->get("other")->state == VmState::kRunning);
  bool told = false;
  for (auto event = rig.events.next(cursor, in_ms(2000)); event && !told;
       event = rig.events.next(cursor, in_ms(2000))) {
    if (const auto* exit = std::get_if<VmExit>(&event->what)) {
      told = event->vm_id == "victim" && exit->signal == SIGKILL;
    }
  }
  CHECK(told);
}

TEST_CASE("a denied system call is an event of its own, before the exit") {
  Rig rig;
  for (const char* words : {"fake.denied=loop", "fake.sigsys"}) {
    CAPTURE(words);
    EventCursor cursor = rig.events.from_now();
    REQUIRE(rig.manager->create(rig.request("a", words), soon()));
    wait_stopped(rig, "a");
    std::vector<std::string> seen;
    for (auto event = rig.events.next(cursor, soon()); event;
         event = rig.events.next(cursor, soon())) {
      if (const auto* denied = std::get_if<SyscallDenied>(&event->what))
        seen.push_back(denied->told ? "denied " + denied->syscall.thread : "denied");
      if (std::holds_alternative<VmExit>(event->what)) {
        seen.push_back("exit");
        break;
      }
    }
    const bool told = std::string(words) != "fake.sigsys";
    CHECK(seen == std::vector<std::string>{told ? "denied loop" : "denied", "exit"});
    REQUIRE(rig.manager->remove("a", false, soon()));
  }
}

TEST_CASE("a limit is refused where the daemon sets none, and nothing is left") {
  Rig rig;
  CreateRequest request = rig.request("a");
  request.spec.limits.cpu_milli = 500;
  const auto result = rig.manager->create(request, soon());
  REQUIRE_FALSE(result);
  CHECK(result.error().reason() == "JAIL_OFF");
  CHECK(count_entries(rig.vms_dir()) == 0);
  CHECK(rig.manager->vm_count() == 0);
}

TEST_CASE("a monitor that will not stop is killed") {
  Rig rig;
  REQUIRE(rig.manager->create(rig.request("a", "fake.hang_stop fake.ignore_shutdown"), soon()));
  REQUIRE(rig.manager->wait("a", {.states = {}, .guest_ready = true}, soon()));
  const auto stopped = rig.manager->stop("a", 50, soon());
  REQUIRE(stopped);
  CHECK(stopped->vm.exit->reason == ExitReason::kHostStop);
  CHECK(stopped->vm.exit->signal == SIGKILL);
}

TEST_CASE("a deadline that passes before a guest is ready leaves the VM as it is") {
  Rig rig;
  REQUIRE(rig.manager->create(rig.request("a", "fake.no_hello"), soon()));
  const auto waited = rig.manager->wait("a", {.states = {}, .guest_ready = true}, in_ms(50));
  CHECK(waited.error().code() == Code::kDeadlineExceeded);
  CHECK(rig.manager->get("a")->state == VmState::kRunning);
}

TEST_CASE("waiting for what a stopped VM will never be fails at once") {
  Rig rig;
  REQUIRE(rig.manager->create(rig.request("a", "fake.no_hello fake.exit=3"), soon()));
  const auto waited = rig.manager->wait("a", {.states = {}, .guest_ready = true}, soon());
  REQUIRE_FALSE(waited);
  CHECK(waited.error().reason() == "VM_STOPPED");
  CHECK(waited.error().message().find("panicked") != std::string::npos);
}

TEST_CASE("a guest's agent that lies harms only its own VM") {
  Rig rig;
  for (const char* words : {"fake.bad_agent", "fake.flood_agent"}) {
    CAPTURE(words);
    REQUIRE(rig.manager->create(rig.request("a", words), soon()));
    CHECK(rig.manager->create(rig.request("b"), soon()));
    CHECK(rig.manager->wait("b", {.states = {}, .guest_ready = true}, soon()));
    CHECK(rig.manager->remove("a", true, soon()));
    CHECK(rig.manager->remove("b", true, soon()));
  }
}

TEST_CASE("a command's streams and exit code come back apart") {
  Rig rig;
  REQUIRE(rig.manager->create(rig.request("a"), soon()));
  auto vm = rig.manager->find("a");
  const ExecStart start{.argv = {"sh", "-c", "cat; echo $X >&2; exit 7"},
                        .env = {"X=err"},
                        .working_directory = "",
                        .terminal = false,
                        .window_size = std::nullopt};
  auto session = ExecSession::open(**vm, start, soon());
  REQUIRE(session);
  const std::string input(300'000, 'i');
  std::thread sender([&] {
    CHECK((*session)->send_stdin(input));
    CHECK((*session)->send_stdin_end());
  });
  const Output output = run_to_end(**session);
  sender.join();
  CHECK(output.out == input);
  CHECK(output.err == "err\n");
  CHECK(output.exit_code == 7);
}

TEST_CASE("a command is refused where it cannot run") {
  Rig rig;
  const auto refused = [&](const char* reason, const CreateRequest& request, ExecStart start) {
    CAPTURE(reason);
    REQUIRE(rig.manager->create(request, soon()));
    {
      auto vm = rig.manager->find("a");
      const auto session = ExecSession::open(**vm, start, soon());
      REQUIRE_FALSE(session);
      CHECK(session.error().reason() == reason);
    }
    REQUIRE(rig.manager->remove("a", true, soon()));
  };
  ExecStart good;
  good.argv = {"true"};
  refused("COMMAND_MISSING", rig.request("a"), {});
  ExecStart nobody = good;
  nobody.user = ExecUser{.uid = 0xffffffff, .gid = 0, .groups = {}};
  refused("EXEC_USER", rig.request("a"), nobody);
  nobody.user = ExecUser{.uid = 1, .gid = 1, .groups = std::vector<uint32_t>(65, 1)};
  refused("EXEC_USER", rig.request("a"), nobody);
  refused("VM_STATE", rig.request("a", "", false), good);
  refused("GUEST_FAILED", rig.request("a", "fake.guest_failure"), good);
  refused("VM_STOPPED", rig.request("a", "fake.no_hello fake.exit=4"), good);
  CreateRequest agentless = rig.request("a");
  agentless.spec.agent = false;
  refused("NO_AGENT", agentless, good);
}

TEST_CASE("a VM that ends under a command ends the command with its reason") {
  Rig rig;
  REQUIRE(rig.manager->create(rig.request("a"), soon()));
  auto vm = rig.manager->find("a");
  ExecStart start;
  start.argv = {"sleep", "1000"};
  auto session = ExecSession::open(**vm, start, soon());
  REQUIRE(session);
  REQUIRE((*session)->next(soon()));  // Started.
  (*vm)->kill();
  const auto output = (*session)->next(soon());
  REQUIRE_FALSE(output);
  CHECK(output.error().reason() == "VM_STOPPED");
}

TEST_CASE("the console is followed to its end, and says what it lost") {
  Rig rig;
  CreateRequest request = rig.request("a", "fake.print=20000");
  request.spec.console_kib = 8;
  REQUIRE(rig.manager->create(request, soon()));
  auto vm = rig.manager->find("a");
  Console* console = *(*vm)->console(soon());
  // Whatever of it was read: the stream has no holes but those that it tells of.
  std::thread stopper([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    (void)rig.manager->stop("a", 0, soon());
  });
  uint64_t offset = 0;
  uint64_t lost = 0;
  std::string tail;
  for (;;) {
    const ConsoleChunk chunk = console->read(offset);
    CHECK(chunk.offset == offset + chunk.lost);
    lost += chunk.lost;
    offset = chunk.offset + chunk.data.size();
    tail += chunk.data;
    if (!chunk.data.empty()) continue;
    auto more = console->wait_beyond(offset, soon());
    REQUIRE(more);
    if (!*more) break;
  }
  stopper.join();
  CHECK(offset > 20000);
  CHECK(lost + tail.size() == offset);
  CHECK(tail.find("line 0000000600") != std::string::npos);
  // From the beginning, the ring has moved on for certain.
  CHECK(console->read(0).lost >= offset - 8 * 1024);
}

TEST_CASE("input reaches the guest's console, and is refused once it has stopped") {
  Rig rig;
  REQUIRE(rig.manager->create(rig.request("a"), soon()));
  auto vm = rig.manager->find("a");
  Console* console = *(*vm)->console(soon());
  const std::string text = "hello\n";
  REQUIRE(console->write_input(std::as_bytes(std::span(text)), soon()));
  std::string seen;
  while (seen.find("you said: hello") == std::string::npos) {
    REQUIRE(console->wait_beyond(seen.size(), soon()));
    seen += console->read(seen.size()).data;
  }
  REQUIRE(rig.manager->stop("a", 0, soon()));
  CHECK(console->write_input(std::as_bytes(std::span(text)), soon()).error().reason() ==
        "VM_STOPPED");
}

TEST_CASE("a list is in order of ids, in pages") {
  Rig rig;
  for (const char* id : {"c", "a", "b"})
    REQUIRE(rig.manager->create(rig.request(id, "", false), soon()));
  const auto first = rig.manager->list(2, "");
  REQUIRE(first);
  CHECK(first->vms.size() == 2);
  CHECK(first->vms[0].id == "a");
  CHECK(first->next_page_token == "b");
  const auto rest = rig.manager->list(2, first->next_page_token);
  CHECK(rest->vms.size() == 1);
  CHECK(rest->next_page_token.empty());
  CHECK_FALSE(rig.manager->list(1001, ""));
}

TEST_CASE("many VMs come and go at once, from many threads") {
  Rig rig;
  const size_t descriptors = open_descriptors();
  std::vector<std::thread> threads;
  std::atomic<int> passed = 0;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 5; ++i) {
        const std::string id = "vm-" + std::to_string(t);
        if (rig.manager->create(rig.request(id), soon()) &&
            rig.manager->wait(id, {.states = {}, .guest_ready = true}, soon()) &&
            rig.manager->remove(id, true, soon())) {
          ++passed;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(passed == 40);
  CHECK(rig.manager->vm_count() == 0);
  CHECK(open_descriptors() == descriptors);
  CHECK(count_entries(rig.vms_dir()) == 0);
  CHECK(child_processes() == 0);
}

TEST_CASE("shutting down ends every VM, the stubborn ones too, and takes no new ones") {
  Rig rig;
  REQUIRE(rig.manager->create(rig.request("good"), soon()));
  REQUIRE(rig.manager->create(rig.request("created", "", false), soon()));
  REQUIRE(
      rig.manager->create(rig.request("stubborn", "fake.ignore_shutdown fake.hang_stop"), soon()));
  rig.manager->shut_down(std::chrono::milliseconds(100));
  CHECK(rig.manager->vm_count() == 0);
  CHECK(child_processes() == 0);
  CHECK(count_entries(rig.vms_dir()) == 0);
  CHECK(rig.manager->create(rig.request("late"), soon()).error().reason() == "DAEMON_STOPPING");
}
