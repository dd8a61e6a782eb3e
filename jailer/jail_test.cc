// SPDX-License-Identifier: Apache-2.0
// What a program sees in the jail, and what the host sees of it, by the real launch() and jailer.
#include "jailer/empty_namespaces.h"
#include "jailer/launch.h"
#include "jailer/limits.h"
#include "jailer/testing/jailed.h"
#include "jailer/testing/skipped.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>
#include <string>

#include <fcntl.h>
#include <grp.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::jailer {
namespace {

constexpr uid_t kUid = 912345;
constexpr gid_t kGid = 923456;
constexpr uid_t kOrdinaryUser = 65533;
constexpr const char* kNeedsRoot = "needs root";

bool is_root() { return ::geteuid() == 0; }

int landlock_version() {
  return static_cast<int>(::syscall(SYS_landlock_create_ruleset, nullptr, 0, 1));
}

JailPlan root_plan() {
  JailPlan plan;
  plan.mode = JailMode::kRoot;
  plan.uid = kUid;
  plan.gid = kGid;
  return plan;
}

// Every word of a file like uid_map, with one blank between two.
std::string words_of(const std::string& text) {
  std::string words;
  for (const char c : text) {
    if (c != ' ' && c != '\n') {
      words += c;
    } else if (!words.empty() && words.back() != ' ') {
      words += ' ';
    }
  }
  if (words.ends_with(' ')) words.pop_back();
  return words;
}

std::string limit_of(const Jailed& jailed, const std::string& name) {
  const std::string limits = jailed.proc("limits");
  const size_t line = limits.find(name);
  if (line == std::string::npos) return "(no such line)";
  const std::string values = limits.substr(line + name.size(), limits.find('\n', line) - line);
  const std::string words = words_of(values);
  return words.substr(0, words.find_last_of("0123456789d") + 1);
}

void check_empty_root(const Jailed& jailed) {
  const bool landlock = landlock_version() >= 1;
  CHECK_EQ(jailed.said("root"), landlock ? "EACCES" : "ok");
  CHECK_EQ(jailed.said("directory"), "/");
  CHECK_EQ(jailed.said("open_proc"), landlock ? "EACCES" : "ENOENT");
  CHECK_EQ(jailed.said("make_directory"), landlock ? "EACCES" : "EROFS");
  const std::string mounts = jailed.proc("mountinfo");
  CHECK_EQ(std::ranges::count(mounts, '\n'), 1);
  CHECK_NE(mounts.find(" / / ro,nosuid,nodev,noexec"), std::string::npos);
  CHECK_NE(mounts.find(" tmpfs "), std::string::npos);
}

void check_namespaces(const Jailed& jailed) {
  for (const char* kind : {"pid", "mnt", "net", "ipc", "uts", "cgroup", "user"}) {
    CAPTURE(kind);
    CHECK_FALSE(jailed.name_space(kind).empty());
    CHECK_NE(jailed.name_space(kind), own_name_space(kind));
  }
  CHECK_EQ(jailed.said("pid"), "1");
  CHECK_EQ(jailed.said("host"), "mayfly (none)");
  CHECK_EQ(jailed.said("loopback"), "down");
}

void check_no_privileges(const Jailed& jailed) {
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) {
    CAPTURE(set);
    CHECK_EQ(jailed.status(set), "0000000000000000");
  }
  CHECK_EQ(jailed.status("NoNewPrivs"), "1");
  // NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE and all four locks, of <linux/securebits.h>.
  CHECK_EQ(jailed.said("securebits"), std::to_string(0b1110'1111));
}

void check_process(const Jailed& jailed) {
  CHECK_EQ(jailed.said("descriptors"), "0 1 2 3 4");
  CHECK_EQ(jailed.said("arguments"), "2 last argument");
  CHECK_EQ(jailed.said("environment"), "empty");
  CHECK_EQ(jailed.said("signals"), "");
  CHECK_EQ(jailed.said("leads_session"), "yes");
  CHECK_EQ(limit_of(jailed, "Max core file size"), "0 0");
}

TEST_CASE("in root mode nothing of the host is left") {
  if (!is_root()) return skipped(kNeedsRoot);
  const Programs programs = Programs::open();
  auto jailed = Jailed::start(programs, root_plan());
  REQUIRE(jailed.has_value());
  check_process(*jailed);
  check_namespaces(*jailed);
  check_empty_root(*jailed);
  check_no_privileges(*jailed);
  CHECK_EQ(jailed->said("ids"), "912345 912345 923456 923456");
  CHECK_EQ(jailed->status("Uid"), "912345 912345 912345 912345");
  CHECK_EQ(jailed->status("Gid"), "923456 923456 923456 923456");
  CHECK_EQ(jailed->status("Groups"), "");
  CHECK_EQ(words_of(jailed->proc("uid_map")), "912345 912345 1");
  CHECK_EQ(words_of(jailed->proc("gid_map")), "923456 923456 1");
  CHECK_EQ(words_of(jailed->proc("setgroups")), "deny");
  CHECK_EQ(jailed->said("become_root"), "EINVAL");  // not a user in there
  CHECK_EQ(limit_of(*jailed, "Max open files"), "1024 1024");
  CHECK_EQ(limit_of(*jailed, "Max processes"), "256 256");
  CHECK_EQ(jailed->end(), 7);
  CHECK_EQ(jailed->error(), "");
}

TEST_CASE("with shared namespaces a jail has a copy of the empty mounts and the shared network") {
  if (!is_root()) return skipped(kNeedsRoot);
  const Programs programs = Programs::open();
  const std::string mounts = own_name_space("mnt");
  const std::string network = own_name_space("net");
  const auto shared = make_empty_namespaces();
  REQUIRE(shared.has_value());
  CHECK_EQ(own_name_space("mnt"), mounts);
  CHECK_EQ(own_name_space("net"), network);
  JailPlan plan = root_plan();
  plan.namespaces = shared->shared();
  auto first = Jailed::start(programs, plan);
  auto second = Jailed::start(programs, plan);
  REQUIRE(first.has_value());
  REQUIRE(second.has_value());
  for (const auto* jailed : {&*first, &*second}) {
    check_process(*jailed);
    check_namespaces(*jailed);
    check_empty_root(*jailed);
    check_no_privileges(*jailed);
  }
  CHECK_EQ(first->name_space("net"), second->name_space("net"));
  for (const char* kind : {"pid", "mnt", "ipc", "uts", "user"}) {
    CAPTURE(kind);
    CHECK_NE(first->name_space(kind), second->name_space(kind));
  }
}

TEST_CASE("an ordinary user's jail is as empty, with the user's own id") {
  if (!is_root()) return skipped("becomes another user, which needs root");
  const Programs programs = Programs::open();
  // Its memory is not dumpable after the change of ids, like the daemon's.
  const std::string failures = in_child([&]() -> std::string {
    const gid_t extra = 4711;
    if (::setgroups(1, &extra) != 0 || ::setresgid(kGid, kGid, kGid) != 0 ||
        ::setresuid(kOrdinaryUser, kOrdinaryUser, kOrdinaryUser) != 0) {
      return "cannot become an ordinary user";
    }
    JailPlan plan;
    plan.mode = JailMode::kUser;
    auto jailed = Jailed::start(programs, plan);
    if (!jailed) return jailed.error().describe();
    // doctest counts in this process; what fails is printed, and said by the result.
    check_process(*jailed);
    check_namespaces(*jailed);
    check_empty_root(*jailed);
    check_no_privileges(*jailed);
    const std::string seen =
        jailed->said("ids") + "; " + words_of(jailed->proc("uid_map")) + "; " +
        words_of(jailed->proc("gid_map")) + "; " + words_of(jailed->proc("setgroups")) + "; " +
        limit_of(*jailed, "Max open files") + "; " + jailed->said("become_root") + "; ";
    const int status = jailed->end();
    return seen + std::to_string(status) + jailed->error();
  });
  CHECK_EQ(failures,
           "65533 65533 923456 923456; 65533 65533 1; 923456 923456 1; deny; 1024 1024; EINVAL; 7");
}

TEST_CASE(
    "without a jail the program has its descriptors, no environment and no privileges to gain") {
  const Programs programs = Programs::open();
  JailPlan plan;
  plan.mode = JailMode::kOff;
  auto jailed = Jailed::start(programs, plan);
  REQUIRE(jailed.has_value());
  check_process(*jailed);
  CHECK_EQ(jailed->status("NoNewPrivs"), "1");
  CHECK_EQ(jailed->name_space("mnt"), own_name_space("mnt"));
  CHECK_EQ(jailed->said("pid"), std::to_string(jailed->pid()));
}

TEST_CASE("Landlock forbids what the empty root alone would let pass") {
  if (!is_root()) return skipped(kNeedsRoot);
  const int version = landlock_version();
  if (version < 1) return skipped("this kernel has no Landlock");
  auto jailed = Jailed::start(Programs::open(), root_plan());
  REQUIRE(jailed.has_value());
  CHECK_EQ(jailed->said("root"), "EACCES");
  CHECK_EQ(jailed->said("bind_tcp"), version >= 4 ? "EACCES" : "ok");
}

}  // namespace
}  // namespace mayfly::jailer
