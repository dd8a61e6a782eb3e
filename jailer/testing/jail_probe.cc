// SPDX-License-Identifier: Apache-2.0
//
// What the tests put into the jail: says on descriptor 3 what it sees, one `name=value` a line, by
// system calls alone, for there is no /proc in there, but where descriptor 5 is its own directory
// of it. Then it stays until descriptor 4 ends.
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <string>

#include <dirent.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <unistd.h>

namespace {

constexpr int kReport = 3;
constexpr int kStay = 4;
constexpr int kProcSelf = 5;

std::string outcome(long result) { return result >= 0 ? "ok" : ::strerrorname_np(errno); }

void say(const char* name, const std::string& value) {
  const std::string line = std::string(name) + "=" + value + "\n";
  if (::write(kReport, line.data(), line.size()) < 0) ::_exit(3);
}

std::string open_descriptors() {
  std::string list;
  for (int i = 0; i < 4096; ++i) {
    if (::fcntl(i, F_GETFD) >= 0) list += (list.empty() ? "" : " ") + std::to_string(i);
  }
  return list;
}

std::string signals() {
  sigset_t blocked;
  ::sigprocmask(SIG_SETMASK, nullptr, &blocked);
  std::string list;
  for (int i = 1; i < 65; ++i) {
    struct sigaction action = {};
    if (::sigismember(&blocked, i) == 1) list += " blocked:" + std::to_string(i);
    if (::sigaction(i, nullptr, &action) == 0 && action.sa_handler != SIG_DFL) {
      list += " set:" + std::to_string(i);
    }
  }
  return list;
}

std::string names_in_root() {
  DIR* root = ::opendir("/");
  if (root == nullptr) return outcome(-1);
  std::string list;
  while (const dirent* entry = ::readdir(root)) {
    if (std::strcmp(entry->d_name, ".") != 0 && std::strcmp(entry->d_name, "..") != 0) {
      list += std::string(" ") + entry->d_name;
    }
  }
  ::closedir(root);
  return "ok" + list;
}

std::string loopback() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0) return outcome(-1);
  ifreq request = {};
  std::strcpy(request.ifr_name, "lo");
  const int result = ::ioctl(fd, SIOCGIFFLAGS, &request);
  const int os_errno = errno;
  ::close(fd);
  errno = os_errno;
  if (result != 0) return outcome(result);
  return (request.ifr_flags & IFF_UP) != 0 ? "up" : "down";
}

std::string bind_tcp() {
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  const sockaddr_in any = {.sin_family = AF_INET, .sin_port = 0, .sin_addr = {}, .sin_zero = {}};
  const std::string text =
      outcome(::bind(fd, reinterpret_cast<const sockaddr*>(&any), sizeof(any)));
  ::close(fd);
  return text;
}

// The first jail of a network namespace listens under an abstract name, others connect to it.
std::string abstract_socket() {
  static constexpr char kName[] = "\0mayfly_jail_test";
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  std::memcpy(address.sun_path, kName, sizeof(kName));
  const auto* where = reinterpret_cast<const sockaddr*>(&address);
  const socklen_t size = offsetof(sockaddr_un, sun_path) + sizeof(kName);
  if (::bind(fd, where, size) == 0) return "listens:" + outcome(::listen(fd, 1));
  return "connects:" + outcome(::connect(fd, where, size));
}

}  // namespace

int main(int argc, char** argv, char** environment) {
  ::fcntl(kReport, F_SETFD, FD_CLOEXEC);
  say("descriptors", open_descriptors());
  say("arguments", std::to_string(argc) + " " + argv[argc - 1]);
  say("environment", environment[0] == nullptr ? "empty" : environment[0]);
  say("signals", signals());
  say("pid", std::to_string(::getpid()));
  say("leads_session", ::getsid(0) == ::getpid() ? "yes" : "no");
  say("ids", std::to_string(::getuid()) + " " + std::to_string(::geteuid()) + " " +
                 std::to_string(::getgid()) + " " + std::to_string(::getegid()));
  utsname host = {};
  ::uname(&host);
  say("host", std::string(host.nodename) + " " + host.domainname);
  char directory[256] = "";
  say("directory", ::getcwd(directory, sizeof(directory)) != nullptr ? directory : outcome(-1));
  say("root", names_in_root());
  say("open_proc", outcome(::open("/proc/self/status", O_RDONLY)));
  say("own_pagemap", outcome(::openat(kProcSelf, "pagemap", O_RDONLY)));
  say("own_file_written", outcome(::openat(kProcSelf, "oom_score_adj", O_WRONLY)));
  say("others_proc", outcome(::openat(kProcSelf, "../uptime", O_RDONLY)));
  say("make_directory", outcome(::mkdir("/made", 0755)));
  say("loopback", loopback());
  say("bind_tcp", bind_tcp());
  say("abstract_socket", abstract_socket());
  say("securebits", std::to_string(::prctl(PR_GET_SECUREBITS)));
  say("become_root", outcome(::setresuid(0, 0, 0)));
  say("end", "");
  char byte = 0;
  while (::read(kStay, &byte, 1) > 0) {
  }
  return 7;
}
