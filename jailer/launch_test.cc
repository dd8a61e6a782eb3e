// SPDX-License-Identifier: Apache-2.0
// launch() itself: descriptors, cgroups, threads, and what is left after a failure: nothing.
#include "jailer/launch.h"

#include "jailer/testing/jailed.h"
#include "jailer/testing/skipped.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::jailer {
namespace {

constexpr const char* kNeedsRoot = "needs root";
constexpr uid_t kUid = 912345;

bool is_root() { return ::geteuid() == 0; }

JailPlan best_plan() {
  if (!is_root()) return {.mode = JailMode::kUser};
  return {.mode = JailMode::kRoot, .uid = kUid, .gid = kUid};
}

/// A cgroup of this test, below the root of the hierarchy at `parent`.
class Group {
 public:
  explicit Group(const std::string& parent)
      : path_(parent + "/mayfly_test." + std::to_string(::getpid())) {
    made_ = ::mkdir(path_.c_str(), 0755) == 0;
  }
  ~Group() {
    // The kernel lets go of a group some time after its last process was reaped.
    for (int i = 0; made_ && i < 500 && ::rmdir(path_.c_str()) != 0; ++i) ::usleep(1000);
  }
  bool made() const { return made_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  bool made_ = false;
};

std::string cgroup2_mount() {
  for (const char* path : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
    if (::access((std::string(path) + "/cgroup.controllers").c_str(), F_OK) == 0) return path;
  }
  return "";
}

void check_no_children() {
  CHECK_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  CHECK_EQ(errno, ECHILD);
}

std::string reason_of(const LaunchPlan& plan) {
  const auto launched = launch(plan);
  check_no_children();
  return launched ? "" : launched.error().reason();
}

/// What `jailed`'s own group is in the hierarchy of the line that has `controller`.
bool is_in(const Jailed& jailed, const std::string& prefix, const Group& group) {
  const std::string name = group.path().substr(group.path().rfind('/'));
  return jailed.proc("cgroup").contains(prefix + name + "\n");
}

TEST_CASE("descriptors are placed whatever their numbers were") {
  const Programs programs = Programs::open();
  // Three files, told apart by size, at each other's future numbers; program and jailer as well.
  const std::string failure = in_child([&]() -> std::string {
    const Fd report = *Fd::memfd("report", 0);
    auto [stay_read, stay_write] = *Fd::pipe();
    stay_write.reset();
    const int jailer = ::fcntl(programs.jailer.number(), F_DUPFD_CLOEXEC, 100);
    const int probe = ::fcntl(programs.probe.number(), F_DUPFD_CLOEXEC, 100);
    const int out = ::fcntl(report.number(), F_DUPFD_CLOEXEC, 100);
    const int stay = ::fcntl(stay_read.number(), F_DUPFD_CLOEXEC, 100);
    // 3: what becomes 4; 4: what becomes 3; 5: the jailer, where the program goes; 1: the program.
    for (const auto& [from, to] : {std::pair(stay, 3), {out, 4}, {jailer, 5}, {probe, 1}}) {
      if (::dup2(from, to) < 0) return "dup2";
    }
    ::close(0);
    const auto launched = launch({
        .jailer = FdRef(5),
        .program = FdRef(1),
        .arguments = {"jail_probe"},
        .inherited = {FdRef(4), FdRef(3)},
        .jail = best_plan(),
    });
    if (!launched) return launched.error().describe();
    siginfo_t end = {};
    ::waitid(P_PIDFD, static_cast<id_t>(launched->pidfd.number()), &end, WEXITED);
    std::string text(4096, '\0');
    const ssize_t size = ::pread(out, text.data(), text.size(), 0);
    text.resize(static_cast<size_t>(std::max<ssize_t>(size, 0)));
    return text.substr(0, text.find('\n')) + " " + std::to_string(end.si_status);
  });
  CHECK_EQ(failure, "descriptors=0 1 2 3 4 7");
}

TEST_CASE("nothing of ours is inherited that was not listed") {
  const Programs programs = Programs::open();
  // As a careless library would leave it: without close-on-exec.
  const Fd leaked(::fcntl(programs.probe.number(), F_DUPFD, 200));
  REQUIRE(leaked.valid());
  ::setenv("LEAKED", "secret", 1);
  sigset_t blocked;
  sigset_t before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGTERM);
  REQUIRE_EQ(::sigprocmask(SIG_BLOCK, &blocked, &before), 0);
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  constexpr int kIgnored[] = {SIGHUP, SIGPIPE, 64};
  struct sigaction actions_before[std::size(kIgnored)] = {};
  for (size_t i = 0; i < std::size(kIgnored); ++i) {
    REQUIRE_EQ(::sigaction(kIgnored[i], &ignore, &actions_before[i]), 0);
  }
  auto jailed = Jailed::start(programs, best_plan());
  REQUIRE(jailed.has_value());
  CHECK_EQ(jailed->said("descriptors"), "0 1 2 3 4");
  CHECK_EQ(jailed->said("environment"), "empty");
  CHECK_EQ(jailed->said("signals"), "");
  // Ours are as they were.
  sigset_t now;
  ::sigprocmask(SIG_SETMASK, &before, &now);
  CHECK_EQ(::sigismember(&now, SIGTERM), 1);
  CHECK_EQ(::sigismember(&now, SIGUSR1), 0);
  for (size_t i = 0; i < std::size(kIgnored); ++i) {
    struct sigaction action = {};
    ::sigaction(kIgnored[i], &actions_before[i], &action);
    CHECK((action.sa_handler == SIG_IGN));
  }
}

TEST_CASE("the jailer refuses to work outside of a PID namespace of its own") {
  auto [error_read, error_write] = *Fd::pipe();
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_adddup2(&actions, error_write.number(), 2);
  ::posix_spawn_file_actions_addopen(&actions, 3, "jailer/testing/jail_probe", O_RDONLY, 0);
  const char* arguments[] = {"mayfly-jailer", "--mode=user", "--exec-fd=3", "--", "x", nullptr};
  pid_t pid = 0;
  REQUIRE_EQ(::posix_spawn(&pid, "jailer/mayfly-jailer", &actions, nullptr,
                           const_cast<char**>(arguments), environ),
             0);
  ::posix_spawn_file_actions_destroy(&actions);
  int status = 0;
  ::waitpid(pid, &status, 0);
  CHECK_EQ(WEXITSTATUS(status), 1);
  std::string text(512, '\0');
  CHECK_GT(::read(error_read.number(), text.data(), text.size()), 0);
  CHECK(text.contains(" PID_NAMESPACE: "));
}

TEST_CASE("a program is born into its cgroup v2") {
  if (!is_root()) return skipped(kNeedsRoot);
  const std::string mount = cgroup2_mount();
  if (mount.empty()) return skipped("no cgroup v2 is mounted");
  const Programs programs = Programs::open();
  const Group group(mount);
  REQUIRE(group.made());
  const Fd directory = *Fd::open(group.path().c_str(), O_RDONLY | O_DIRECTORY);
  JailPlan plan = best_plan();
  plan.cgroup = directory.ref();
  auto jailed = Jailed::start(programs, plan);
  REQUIRE(jailed.has_value());
  CHECK(is_in(*jailed, "0::", group));
  CHECK_EQ(jailed->end(), 7);
}

TEST_CASE("a cgroup that has vanished is named, and nothing is started") {
  if (!is_root()) return skipped(kNeedsRoot);
  const std::string mount = cgroup2_mount();
  if (mount.empty()) return skipped("no cgroup v2 is mounted");
  const Programs programs = Programs::open();
  Fd directory;
  {
    const Group group(mount);
    REQUIRE(group.made());
    directory = *Fd::open(group.path().c_str(), O_RDONLY | O_DIRECTORY);
  }
  JailPlan plan = best_plan();
  plan.cgroup = directory.ref();
  const auto jailed = Jailed::start(programs, plan);
  REQUIRE_FALSE(jailed.has_value());
  CHECK_EQ(jailed.error().reason(), "CGROUP_REFUSED");
  check_no_children();
}

TEST_CASE("a program enters its cgroups v1") {
  if (!is_root()) return skipped(kNeedsRoot);
  const Group pids("/sys/fs/cgroup/pids");
  const Group freezer("/sys/fs/cgroup/freezer");
  if (!pids.made() || !freezer.made()) return skipped("no cgroup v1 hierarchies are mounted");
  const Fd first = *Fd::open((pids.path() + "/cgroup.procs").c_str(), O_WRONLY);
  const Fd second = *Fd::open((freezer.path() + "/cgroup.procs").c_str(), O_WRONLY);
  JailPlan plan = best_plan();
  plan.cgroup_procs = {first.ref(), second.ref()};
  auto jailed = Jailed::start(Programs::open(), plan);
  REQUIRE(jailed.has_value());
  CHECK(is_in(*jailed, "pids:", pids));
  CHECK(is_in(*jailed, "freezer:", freezer));
  CHECK_EQ(jailed->said("descriptors"), "0 1 2 3 4");
  CHECK_EQ(jailed->end(), 7);
}

TEST_CASE("a cgroup that the kernel refuses ends the jailer, with a reason") {
  if (!is_root()) return skipped(kNeedsRoot);
  // A cpuset without CPUs takes nobody.
  const Group cpuset("/sys/fs/cgroup/cpuset");
  if (!cpuset.made()) return skipped("no cgroup v1 hierarchy of cpuset is mounted");
  const Fd procs = *Fd::open((cpuset.path() + "/cgroup.procs").c_str(), O_WRONLY);
  JailPlan plan = best_plan();
  plan.cgroup_procs = {procs.ref()};
  auto jailed = Jailed::start(Programs::open(), plan);
  REQUIRE(jailed.has_value());
  CHECK_EQ(jailed->end(), 1);
  CHECK(jailed->error().starts_with("mayfly-jailer error FAILED_PRECONDITION CGROUP_REFUSED: "));
  CHECK_EQ(std::ranges::count(jailed->error(), '\n'), 1);
}

TEST_CASE("what cannot be launched has a reason, and nothing is started") {
  const Programs programs = Programs::open();
  const Fd null = *Fd::open("/dev/null", O_RDWR);
  const LaunchPlan good = {.jailer = programs.jailer.ref(),
                           .program = programs.probe.ref(),
                           .arguments = {"jail_probe"},
                           .jail = best_plan()};
  LaunchPlan plan = good;
  plan.jail = {.mode = JailMode::kRoot, .uid = 0, .gid = 5};
  CHECK_EQ(reason_of(plan), "ID");
  plan.jail = {.mode = JailMode::kRoot, .uid = 5, .gid = ~0u};
  CHECK_EQ(reason_of(plan), "ID");
  plan = good;
  plan.arguments.clear();
  CHECK_EQ(reason_of(plan), "NO_ARGUMENTS");
  plan = good;
  plan.inherited.assign(17, null.ref());
  CHECK_EQ(reason_of(plan), "TOO_MANY");
  plan.inherited = {null.ref(), FdRef(1234)};
  CHECK_EQ(reason_of(plan), "DESCRIPTOR");
  plan = good;
  plan.program = null.ref();
  CHECK_EQ(reason_of(plan), "PROGRAM_NOT_A_FILE");
  plan = good;
  plan.jailer = FdRef();
  CHECK_EQ(reason_of(plan), "PROGRAM_DESCRIPTOR");
}

TEST_CASE("a jailer that cannot be executed is an error of launch()") {
  const Programs programs = Programs::open();
  const Fd text = *Fd::memfd("text", 0);
  REQUIRE_EQ(::write(text.number(), "text\n", 5), 5);
  REQUIRE_EQ(::fchmod(text.number(), 0755), 0);
  CHECK_EQ(reason_of({.jailer = text.ref(),
                      .program = programs.probe.ref(),
                      .arguments = {"jail_probe"},
                      .jail = best_plan()}),
           "EXEC_JAILER");
}

TEST_CASE("a directory does not get into a jail") {
  const Programs programs = Programs::open();
  const Fd directory = *Fd::open("/tmp", O_RDONLY | O_DIRECTORY);
  auto [error_read, error_write] = *Fd::pipe();
  auto launched = launch({.jailer = programs.jailer.ref(),
                          .program = programs.probe.ref(),
                          .arguments = {"jail_probe"},
                          .standard_error = error_write.ref(),
                          .inherited = {directory.ref()},
                          .jail = best_plan()});
  REQUIRE(launched.has_value());
  siginfo_t end = {};
  ::waitid(P_PIDFD, static_cast<id_t>(launched->pidfd.number()), &end, WEXITED);
  CHECK_EQ(end.si_status, 1);
  std::string text(512, '\0');
  CHECK_GT(::read(error_read.number(), text.data(), text.size()), 0);
  CHECK(text.contains("KEPT_DIRECTORY"));
}

/// In a child whose user namespace has `more` of them to give; root there, and every id.
std::string in_user_namespace(int more, const std::function<std::string()>& body) {
  return in_child([&]() -> std::string {
    auto [go_read, go_write] = MUST(Fd::pipe());
    auto [ready_read, ready_write] = MUST(Fd::pipe());
    char byte = 'x';
    const pid_t target = ::getpid();
    const pid_t mapper = ::fork();
    if (mapper == 0) {
      // Only one outside may map more than one id.
      bool ok = ::read(ready_read.number(), &byte, 1) == 1;
      for (const char* file : {"uid_map", "gid_map"}) {
        const std::string path = "/proc/" + std::to_string(target) + "/" + file;
        const auto map = Fd::open(path.c_str(), O_WRONLY);
        ok = ok && map && ::write(map->number(), "0 0 1000000", 11) == 11;
      }
      ::_exit(ok && ::write(go_write.number(), &byte, 1) == 1 ? 0 : 1);
    }
    go_write.reset();
    if (::unshare(CLONE_NEWUSER) != 0 || ::write(ready_write.number(), &byte, 1) != 1 ||
        ::read(go_read.number(), &byte, 1) != 1) {
      return "no user namespace for the test";
    }
    ::waitpid(mapper, nullptr, 0);
    const auto limit = Fd::open("/proc/sys/user/max_user_namespaces", O_WRONLY);
    const std::string number = std::to_string(more);
    if (!limit || ::write(limit->number(), number.data(), number.size()) < 0) return "sysctl";
    return body();
  });
}

TEST_CASE("where user namespaces are off, user mode names the setting") {
  if (!is_root()) return skipped(kNeedsRoot);
  const Programs programs = Programs::open();
  const std::string text = in_user_namespace(0, [&]() -> std::string {
    const auto jailed = Jailed::start(programs, {.mode = JailMode::kUser});
    return jailed ? "" : jailed.error().reason() + " " + jailed.error().message();
  });
  CAPTURE(text);
  CHECK(text.starts_with("USER_NAMESPACES_OFF "));
  CHECK(text.contains("/proc/sys/user/max_user_namespaces is 0"));
}

TEST_CASE("where user namespaces are off, root mode goes on without one") {
  if (!is_root()) return skipped(kNeedsRoot);
  const Programs programs = Programs::open();
  const std::string text = in_user_namespace(0, [&]() -> std::string {
    auto jailed = Jailed::start(programs, best_plan());
    if (!jailed) return jailed.error().describe();
    const bool same_users = jailed->name_space("user") == own_name_space("user");
    const std::string seen = jailed->said("ids") + " " + jailed->status("CapBnd") + " " +
                             jailed->status("CapEff") + " " + jailed->said("make_directory");
    return seen + (same_users ? " same " : " other ") + std::to_string(jailed->end());
  });
  CHECK_EQ(text, "912345 912345 912345 912345 0000000000000000 0000000000000000 EROFS same 7");
}

std::atomic<pid_t> handled_elsewhere = 0;
pid_t test_process = 0;

void on_alarm(int) {
  if (::getpid() != test_process) handled_elsewhere = ::getpid();
}

TEST_CASE("many threads launch at once, under signals, and the host is as before") {
  const Programs programs = Programs::open();
  const auto mounts = [] { return std::ranges::count(read_file("/proc/self/mountinfo"), '\n'); };
  const auto mounts_before = mounts();
  test_process = ::getpid();
  struct sigaction action = {};
  struct sigaction before = {};
  action.sa_handler = on_alarm;
  action.sa_flags = SA_RESTART;
  REQUIRE_EQ(::sigaction(SIGALRM, &action, &before), 0);
  const itimerval every_ms = {.it_interval = {0, 1000}, .it_value = {0, 1000}};
  REQUIRE_EQ(::setitimer(ITIMER_REAL, &every_ms, nullptr), 0);
  std::atomic<int> good = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        for (int round = 0; round < 8; ++round) {
          auto jailed = Jailed::start(programs, best_plan());
          if (jailed && jailed->said("descriptors") == "0 1 2 3 4" && jailed->end() == 7) ++good;
        }
      });
    }
  }
  const itimerval never = {};
  ::setitimer(ITIMER_REAL, &never, nullptr);
  ::sigaction(SIGALRM, &before, nullptr);
  CHECK_EQ(good, 64);
  CHECK_EQ(handled_elsewhere, 0);
  CHECK_EQ(mounts(), mounts_before);
  check_no_children();
}

}  // namespace
}  // namespace mayfly::jailer
