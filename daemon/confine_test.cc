// SPDX-License-Identifier: Apache-2.0
#include "base/landlock_sys.h"
#include "daemon/confine_sys.h"

#include <doctest/doctest.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
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

/// In a process of its own: 99 where it could not be confined, else what `look` says.
template <typename Look>
int confined(const JailHost& jails, const Look& look) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) ::_exit(confine_ourselves(jails) ? look() : 99);
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  return WEXITSTATUS(status);
}

template <typename Address>
int connect_error(int family, const Address& address, socklen_t size) {
  const Fd socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  // SAFETY: the kernel reads `size` bytes of the address.
  return ::connect(socket.ref().number(), reinterpret_cast<const sockaddr*>(&address), size) == 0
             ? 0
             : errno;
}

int tcp_error() {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(9);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return connect_error(AF_INET, address, sizeof(address));
}

/// Of a stream socket that listens at this name, outside the process that asks.
int abstract_error(const sockaddr_un& address, socklen_t size) {
  return connect_error(AF_UNIX, address, size);
}

/// What an attempt met; 0: it succeeded.
template <typename Attempt>
int error_of(const Attempt& attempt) {
  return attempt() == 0 ? 0 : errno;
}

/// Of executing a program that is neither the jailer nor the monitor.
int execute_error() {
  char name[] = "true";
  char* const arguments[] = {name, nullptr};
  ::execv("/bin/true", arguments);
  return errno;
}

}  // namespace

TEST_CASE("the daemon keeps the stated capabilities and nothing else of its privileges") {
  const auto jails = JailHost::open(
      {.mode = "off", .jailer_path = "/bin/true", .vmm_path = "/bin/true", .state_dir = "/none"});
  REQUIRE(jails);
  const bool root = ::geteuid() == 0;
  REQUIRE(look_around(root) != 0);
  CHECK(confined(**jails, [&] { return look_around(root); }) == 0);
}

// By what was denied, the first attempt that was not; 0: all were. Each succeeds, or fails in
// another way, before the process is confined: the test looks at that first.
TEST_CASE("Landlock keeps the daemon from the network, from others' processes and from programs") {
  const int version = landlock::version();
  if (version == 0) {
    MESSAGE("this kernel has no Landlock: there is nothing to see");
    return;
  }
  const bool root = ::geteuid() == 0;
  const auto jails = JailHost::open({.mode = root ? "root" : "off",
                                     .jailer_path = "/bin/cat",
                                     .vmm_path = "/bin/cat",
                                     .state_dir = "/none"});
  REQUIRE(jails);
  const Fd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un abstract = {};
  abstract.sun_family = AF_UNIX;
  const std::string name = "mayfly-confine-" + std::to_string(::getpid());
  std::memcpy(abstract.sun_path + 1, name.data(), name.size());
  const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  REQUIRE(::bind(listener.ref().number(), reinterpret_cast<const sockaddr*>(&abstract), size) == 0);
  REQUIRE(::listen(listener.ref().number(), 4) == 0);
  const pid_t parent = ::getpid();
  const std::string link = "/tmp/" + name;
  const auto make_link = [&] { return error_of([&] { return ::symlink("x", link.c_str()); }); };
  const auto make_device = [&] {
    return error_of([&] { return ::mknod(link.c_str(), S_IFCHR | 0600, 0x103); });
  };

  CHECK(tcp_error() != EACCES);
  CHECK(abstract_error(abstract, size) == 0);
  CHECK(make_link() == 0);
  CHECK(::unlink(link.c_str()) == 0);
  const auto attempts = [&] {
    if (version >= 4 && tcp_error() != EACCES) return 1;
    if (version >= 6 && abstract_error(abstract, size) != EPERM) return 2;
    if (version >= 6 && error_of([&] { return ::kill(parent, 0); }) != EPERM) return 3;
    if (!root) return 0;
    if (execute_error() != EACCES) return 4;
    if (make_link() != EACCES) return 5;
    return make_device() == EACCES ? 0 : 6;
  };
  CHECK(confined(**jails, attempts) == 0);
  CHECK(::access(link.c_str(), F_OK) != 0);
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
