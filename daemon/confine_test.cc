// SPDX-License-Identifier: Apache-2.0
#include "daemon/confine_sys.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace mayfly;
using namespace mayfly::daemon;

namespace {

/// A number of /proc/self/status, in hex as capabilities are.
uint64_t status_of(const std::string& name) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(name + ":"))
      return std::strtoull(line.c_str() + name.size() + 1, nullptr, 16);
  }
  return UINT64_MAX;
}

uint64_t kept_mask() {
  uint64_t mask = 0;
  for (const KeptCapability& each : kKeptCapabilities) mask |= uint64_t{1} << each.number;
  return mask;
}

/// The first thing that is wrong in a confined process; 0: nothing.
int look_around(bool root) {
  rlimit core = {};
  ::getrlimit(RLIMIT_CORE, &core);
  if (core.rlim_max != 0) return 1;
  if (::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0) return 2;
  if (::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1) return 3;
  if (!root) return 0;
  for (const char* set : {"CapPrm", "CapEff", "CapBnd"}) {
    if ((status_of(set) & ~kept_mask()) != 0) return 4;
  }
  if (status_of("CapInh") != 0 || status_of("CapAmb") != 0) return 5;
  // What is kept was not lost on the way.
  return (status_of("CapEff") & uint64_t{1} << CAP_SETUID) != 0 ? 0 : 6;
}

}  // namespace

TEST_CASE("the daemon keeps the stated capabilities and nothing else of its privileges") {
  const auto jails = JailHost::open(
      {.mode = "off", .jailer_path = "/bin/true", .vmm_path = "/bin/true", .state_dir = "/none"});
  REQUIRE(jails);
  const bool root = ::geteuid() == 0;
  REQUIRE(look_around(root) != 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) ::_exit(confine_ourselves(**jails) ? look_around(root) : 99);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("the example unit bounds the daemon by the same capabilities") {
  std::ifstream file(std::string(std::getenv("TEST_SRCDIR")) + "/" + std::getenv("TEST_WORKSPACE") +
                     "/examples/systemd/mayflyd.service");
  std::set<std::string> in_unit;
  for (std::string line; std::getline(file, line);) {
    const std::string key = "CapabilityBoundingSet=";
    if (!line.starts_with(key)) continue;
    std::istringstream names(line.substr(key.size()));
    for (std::string name; names >> name;) in_unit.insert(name);
  }
  std::set<std::string> in_code;
  for (const KeptCapability& each : kKeptCapabilities) in_code.insert(each.name);
  CHECK(in_unit == in_code);
}

TEST_CASE("a mode that does not exist, or that this user cannot have, is refused") {
  const auto open = [](const char* mode, const char* range) {
    return JailHost::open({.mode = mode,
                           .uid_range = range,
                           .jailer_path = "/bin/true",
                           .vmm_path = "/bin/true",
                           .state_dir = "/none"});
  };
  CHECK(open("chroot", "").error().reason() == "JAIL_MODE");
  CHECK(open("off", "5-1").error().reason() == "UID_RANGE");
  if (::geteuid() != 0) CHECK(open("root", "").error().reason() == "JAIL_NEEDS_ROOT");
  const auto off = open("off", "");
  REQUIRE(off);
  REQUIRE((*off)->warnings().size() == 1);
  CHECK((*off)->warnings()[0].starts_with("--jail=off: "));
  CHECK((*off)->cgroups() == nullptr);
}
