// SPDX-License-Identifier: Apache-2.0
// What a program sees in the jail, and what the host sees of it, by the real launch() and jailer.
#include "jailer/empty_namespaces.h"
#include "jailer/launch.h"
#include "jailer/testing/jailed.h"
#include "jailer/testing/skipped.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <sstream>
#include <string>

#include <grp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::jailer {
namespace {

constexpr uid_t kUid = 912345;
constexpr gid_t kGid = 923456;
constexpr uid_t kOrdinaryUser = 65533;
constexpr uint64_t kMaxFileBytes = 123'456;
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
  plan.max_file_bytes = kMaxFileBytes;
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

// The soft and the hard limit.
std::string limit_of(const Jailed& jailed, const std::string& name) {
  const std::string limits = jailed.proc("limits");
  const size_t line = limits.find(name);
  if (line == std::string::npos) return "(no such line)";
  std::istringstream words(limits.substr(line + name.size()));
  std::string soft;
  std::string hard;
  words >> soft >> hard;
  return soft + " " + hard;
}

/// What is not as it must be, a line each. No CHECK, whose count would be lost in a forked child.
struct Findings {
  std::string text;

  void add(const std::string& what, const std::string& seen, const std::string& wanted) {
    text += what + ": is " + seen + ", must be " + wanted + "\n";
  }
  void equal(const std::string& what, const std::string& seen, const std::string& wanted) {
    if (seen != wanted) add(what, seen, wanted);
  }
};

void check_process(const Jailed& jailed, Findings& findings) {
  findings.equal("descriptors", jailed.said("descriptors"), "0 1 2 3 4");
  findings.equal("arguments", jailed.said("arguments"), "2 last argument");
  findings.equal("environment", jailed.said("environment"), "empty");
  findings.equal("signals", jailed.said("signals"), "");
  findings.equal("leads_session", jailed.said("leads_session"), "yes");
  findings.equal("core", limit_of(jailed, "Max core file size"), "0 0");
  findings.equal("NoNewPrivs", jailed.status("NoNewPrivs"), "1");
}

void check_namespaces(const Jailed& jailed, Findings& findings) {
  for (const char* kind : {"pid", "mnt", "net", "ipc", "uts", "cgroup", "user"}) {
    const std::string theirs = jailed.name_space(kind);
    if (theirs.empty() || theirs == own_name_space(kind)) findings.add(kind, theirs, "its own");
  }
  findings.equal("pid", jailed.said("pid"), "1");
  findings.equal("host", jailed.said("host"), "mayfly (none)");
  findings.equal("loopback", jailed.said("loopback"), "down");
}

void check_empty_root(const Jailed& jailed, Findings& findings) {
  findings.equal("root", jailed.said("root"), landlock_version() >= 1 ? "EACCES" : "ok");
  findings.equal("directory", jailed.said("directory"), "/");
  findings.equal("open_proc", jailed.said("open_proc"), "ENOENT");
  findings.equal("make_directory", jailed.said("make_directory"), "EROFS");
  const std::string mounts = jailed.proc("mountinfo");
  if (std::ranges::count(mounts, '\n') != 1 || !mounts.contains(" tmpfs ") ||
      !mounts.contains(" / / ro,nosuid,nodev,noexec")) {
    findings.add("mounts", mounts, "one read-only tmpfs");
  }
}

void check_no_privileges(const Jailed& jailed, Findings& findings) {
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) {
    findings.equal(set, jailed.status(set), "0000000000000000");
  }
  // NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE and all four locks, of <linux/securebits.h>.
  findings.equal("securebits", jailed.said("securebits"), std::to_string(0b1110'1111));
  findings.equal("become_root", jailed.said("become_root"), "EINVAL");  // nobody in there
  findings.equal("setgroups", words_of(jailed.proc("setgroups")), "deny");
  findings.equal("open files", limit_of(jailed, "Max open files"), "4096 4096");
  findings.equal("file size", limit_of(jailed, "Max file size"),
                 std::to_string(kMaxFileBytes) + " " + std::to_string(kMaxFileBytes));
}

void check_ids(const Jailed& jailed, uid_t uid, gid_t gid, Findings& findings) {
  const std::string user = std::to_string(uid);
  const std::string group = std::to_string(gid);
  findings.equal("ids", jailed.said("ids"), user + " " + user + " " + group + " " + group);
  findings.equal("Uid", jailed.status("Uid"), user + " " + user + " " + user + " " + user);
  findings.equal("Gid", jailed.status("Gid"), group + " " + group + " " + group + " " + group);
  findings.equal("uid_map", words_of(jailed.proc("uid_map")), user + " " + user + " 1");
  findings.equal("gid_map", words_of(jailed.proc("gid_map")), group + " " + group + " 1");
}

/// All that a jail has in common, whoever made it.
Findings check_jail(const Jailed& jailed, uid_t uid, gid_t gid) {
  Findings findings;
  check_process(jailed, findings);
  check_namespaces(jailed, findings);
  check_empty_root(jailed, findings);
  check_no_privileges(jailed, findings);
  check_ids(jailed, uid, gid, findings);
  return findings;
}

/// For a child process: without root's groups too.
bool become_ordinary_user() {
  return ::setgroups(0, nullptr) == 0 && ::setresgid(kGid, kGid, kGid) == 0 &&
         ::setresuid(kOrdinaryUser, kOrdinaryUser, kOrdinaryUser) == 0;
}

TEST_CASE("in root mode nothing of the host is left") {
  if (!is_root()) return skipped(kNeedsRoot);
  auto jailed = Jailed::start(Programs::open(), root_plan());
  REQUIRE(jailed.has_value());
  CHECK_EQ(check_jail(*jailed, kUid, kGid).text, "");
  CHECK_EQ(limit_of(*jailed, "Max processes"), "256 256");
  CHECK_EQ(jailed->end(), 7);
  CHECK_EQ(jailed->error(), "");
}

TEST_CASE("in root mode no group of ours is left") {
  if (!is_root()) return skipped(kNeedsRoot);
  const Programs programs = Programs::open();
  CHECK_EQ(in_child([&]() -> std::string {
             const gid_t groups[] = {0, 4711};
             if (::setgroups(2, groups) != 0) return "no groups for the test";
             auto jailed = Jailed::start(programs, root_plan());
             if (!jailed) return jailed.error().describe();
             const std::string groups_left = jailed->status("Groups");
             return groups_left + "|" + std::to_string(jailed->end());
           }),
           "|7");
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
  CHECK_EQ(check_jail(*first, kUid, kGid).text, "");
  CHECK_EQ(check_jail(*second, kUid, kGid).text, "");
  CHECK_EQ(first->name_space("net"), second->name_space("net"));
  for (const char* kind : {"pid", "mnt", "ipc", "uts", "user"}) {
    CAPTURE(kind);
    CHECK_NE(first->name_space(kind), second->name_space(kind));
  }
}

TEST_CASE("jails that share a network cannot speak with each other") {
  if (!is_root()) return skipped(kNeedsRoot);
  const Programs programs = Programs::open();
  const auto shared = make_empty_namespaces();
  REQUIRE(shared.has_value());
  JailPlan plan = root_plan();
  plan.namespaces = shared->shared();
  auto first = Jailed::start(programs, plan);
  auto second = Jailed::start(programs, plan);
  plan.namespaces.network = FdRef();
  auto apart = Jailed::start(programs, plan);
  REQUIRE(first.has_value());
  REQUIRE(second.has_value());
  REQUIRE(apart.has_value());
  CHECK_EQ(first->said("abstract_socket"), "listens:ok");
  CHECK_EQ(apart->said("abstract_socket"), "listens:ok");
  if (landlock_version() < 6) {
    return skipped("abstract sockets in a shared network need Landlock 6 (Linux 6.12), or seccomp");
  }
  CHECK_EQ(second->said("abstract_socket"), "connects:EPERM");
}

TEST_CASE("making the empty namespaces changes nothing of a host whose mounts are shared") {
  if (!is_root()) return skipped(kNeedsRoot);
  CHECK_EQ(in_child([]() -> std::string {
             if (::unshare(CLONE_NEWNS) != 0 ||
                 ::mount(nullptr, "/", nullptr, MS_REC | MS_SHARED, nullptr) != 0) {
               return "no shared mounts for the test";
             }
             const std::string mounts = read_file("/proc/self/mountinfo");
             const auto made = make_empty_namespaces();
             if (!made) return made.error().describe();
             return read_file("/proc/self/mountinfo") == mounts ? "same" : "changed";
           }),
           "same");
}

TEST_CASE("an ordinary user's jail is as empty, with the user's own id") {
  if (!is_root()) return skipped("becomes another user, which needs root");
  const Programs programs = Programs::open();
  // The change of ids makes this child's memory undumpable, as the daemon's is.
  CHECK_EQ(in_child([&]() -> std::string {
             if (!become_ordinary_user()) return "cannot become an ordinary user";
             auto jailed = Jailed::start(
                 programs, {.mode = JailMode::kUser, .max_file_bytes = kMaxFileBytes});
             if (!jailed) return jailed.error().describe();
             const std::string findings = check_jail(*jailed, kOrdinaryUser, kGid).text;
             const int status = jailed->end();
             return findings + std::to_string(status) + jailed->error();
           }),
           "7");
}

TEST_CASE("whoever runs this can have a jail in user mode, root included") {
  auto jailed = Jailed::start(Programs::open(), {.mode = JailMode::kUser});
  REQUIRE(jailed.has_value());
  Findings findings;
  check_process(*jailed, findings);
  check_namespaces(*jailed, findings);
  check_empty_root(*jailed, findings);
  check_ids(*jailed, ::geteuid(), ::getegid(), findings);
  CHECK_EQ(findings.text, "");
  CHECK_EQ(jailed->status("CapEff"), "0000000000000000");
}

TEST_CASE("without a jail the program has only its descriptors and nothing to gain") {
  auto jailed = Jailed::start(Programs::open(), {.mode = JailMode::kOff});
  REQUIRE(jailed.has_value());
  Findings findings;
  check_process(*jailed, findings);
  CHECK_EQ(findings.text, "");
  CHECK_EQ(jailed->name_space("mnt"), own_name_space("mnt"));
  CHECK_EQ(jailed->said("pid"), std::to_string(jailed->pid()));
}

TEST_CASE("a program that is left its directory of /proc can read there and nowhere else") {
  const int version = landlock_version();
  const auto check = [&](const JailPlan& plan) {
    auto jailed = Jailed::start(Programs::open(), plan, /*leaves_proc_self=*/true);
    REQUIRE(jailed.has_value());
    CHECK_EQ(jailed->said("descriptors"), "0 1 2 3 4 5");
    CHECK_EQ(jailed->said("own_pagemap"), "ok");
    CHECK_EQ(jailed->said("own_file_written"), version >= 1 ? "EACCES" : "ok");
    CHECK_EQ(jailed->said("others_proc"), version >= 1 ? "EACCES" : "ok");
    CHECK_EQ(jailed->end(), 7);
  };
  check({.mode = JailMode::kUser});
  if (!is_root()) return skipped(kNeedsRoot);
  check(root_plan());
  const auto shared = make_empty_namespaces();
  REQUIRE(shared.has_value());
  JailPlan plan = root_plan();
  plan.namespaces = shared->shared();
  check(plan);
  CHECK_EQ(Jailed::start(Programs::open(), {.mode = JailMode::kOff}, true).error().reason(),
           "PROC_SELF");
}

TEST_CASE("Landlock forbids what the empty root alone would let pass") {
  const int version = landlock_version();
  if (version < 1) return skipped("this kernel has no Landlock");
  auto jailed = Jailed::start(Programs::open(), {.mode = JailMode::kUser});
  REQUIRE(jailed.has_value());
  CHECK_EQ(jailed->said("root"), "EACCES");
  CHECK_EQ(jailed->said("bind_tcp"), version >= 4 ? "EACCES" : "ok");
}

}  // namespace
}  // namespace mayfly::jailer
