// SPDX-License-Identifier: Apache-2.0
#include "cli/private_daemon.h"

#include "cli/terminal_sys.h"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::cli {

namespace {

constexpr int kReadyMs = 20'000;
constexpr int kEndMs = 30'000;
constexpr int kChildFd = 3;

std::string from_environment(const char* name, const std::string& fallback) {
  const char* value = std::getenv(name);
  return value != nullptr && value[0] != '\0' ? value : fallback;
}

std::string absolute(const std::string& path) {
  std::error_code error;
  return std::filesystem::absolute(path, error).lexically_normal();
}

}  // namespace

Installation find_installation() {
  std::error_code error;
  const auto beside = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  const std::filesystem::path guest =
      absolute(from_environment("MAYFLY_GUEST_DIR", beside / "guest"));
  std::filesystem::path kernel = guest / "vmlinux";
  std::filesystem::path kernel_initrd;
  if (!std::filesystem::exists(kernel, error) &&
      std::filesystem::exists(guest / "stock/vmlinuz", error)) {
    kernel = guest / "stock/vmlinuz";
    kernel_initrd = guest / "stock/modules.cpio";
  }
  return {
      .mayflyd = absolute(from_environment("MAYFLY_DAEMON", beside / "mayflyd")),
      .vmm = absolute(from_environment("MAYFLY_VMM", beside / "mayfly-vmm")),
      .jailer = absolute(from_environment("MAYFLY_JAILER", beside / "mayfly-jailer")),
      .agent_initrd = absolute(from_environment("MAYFLY_AGENT_INITRD", guest / "agent.cpio")),
      .kernel = kernel,
      .kernel_initrd = kernel_initrd,
      .rootfs = guest / "rootfs.ext4",
      .kvm_device = from_environment("MAYFLY_KVM_DEVICE", ""),
      .jail = from_environment("MAYFLY_JAIL", ""),
  };
}

std::string daemon_target(const std::string& flag) {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  const bool own = ::geteuid() != 0 && runtime != nullptr && runtime[0] == '/';
  std::string target = flag.empty() ? from_environment("MAYFLY_SOCKET", "") : flag;
  if (target.empty()) target = std::string(own ? runtime : "/run") + "/mayfly/mayflyd.sock";
  return target.starts_with("unix:") ? target : "unix:" + absolute(target);
}

Result<std::unique_ptr<PrivateDaemon>> PrivateDaemon::start(const Installation& installation) {
  if (::access(installation.mayflyd.c_str(), X_OK) != 0) {
    return fail_errno({Code::kNotFound, "DAEMON_MISSING"}, errno, "cannot run %s",
                      installation.mayflyd.c_str());
  }
  auto [ours, theirs] = TRY(Fd::socket_pair(SOCK_STREAM));
  // Above the number that it gets in the child, so that dup2 there is never onto itself.
  Fd moved(::fcntl(theirs.number(), F_DUPFD_CLOEXEC, kChildFd + 1));
  theirs.reset();
  std::vector<std::string> words = {
      installation.mayflyd, "--private", std::to_string(kChildFd), "--vmm",
      installation.vmm,     "--jailer",  installation.jailer};
  if (::access(installation.agent_initrd.c_str(), R_OK) == 0) {
    words.insert(words.end(), {"--agent-initrd", installation.agent_initrd});
  }
  if (!installation.kvm_device.empty())
    words.insert(words.end(), {"--kvm-device", installation.kvm_device});
  if (!installation.jail.empty()) words.insert(words.end(), {"--jail", installation.jail});
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, moved.number(), kChildFd);
  posix_spawn_file_actions_addclosefrom_np(&actions, kChildFd + 1);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  // A group of its own: a terminal's Ctrl-C is ours to handle, and the daemon must outlive it.
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK);
  pid_t pid = 0;
  const int error = ::posix_spawn(&pid, argv[0], &actions, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  moved.reset();  // Or a daemon that ends at once would not be seen to.
  if (error != 0)
    return fail_errno({Code::kUnavailable, "DAEMON_START"}, error, "start %s", argv[0]);
  std::unique_ptr<PrivateDaemon> daemon(new PrivateDaemon(pid, std::move(ours)));
  TRY(daemon->wait_ready());
  return daemon;
}

Result<> PrivateDaemon::wait_ready() {
  std::string text;
  while (text.find('\n') == std::string::npos) {
    pollfd entry = {.fd = line_.number(), .events = POLLIN, .revents = 0};
    const int ready = ::poll(&entry, 1, kReadyMs);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) {
      return fail({Code::kDeadlineExceeded, "DAEMON_START"}, "mayflyd was not ready after %d ms",
                  kReadyMs);
    }
    char buffer[512];
    const ssize_t size = ::read(line_.number(), buffer, sizeof(buffer));
    if (size <= 0)
      return fail({Code::kUnavailable, "DAEMON_START"}, "mayflyd ended before it was ready");
    text.append(buffer, static_cast<size_t>(size));
  }
  text.erase(text.find('\n'));
  if (!text.starts_with("ready ")) {
    if (text.starts_with("error ")) text.erase(0, 6);
    return fail({Code::kUnavailable, "DAEMON_START"}, "mayflyd: %s", text.c_str());
  }
  target_ = text.substr(6);
  return {};
}

PrivateDaemon::~PrivateDaemon() {
  line_.reset();
  const Fd pidfd = open_pidfd(pid_);
  pollfd entry = {.fd = pidfd.number(), .events = POLLIN, .revents = 0};
  if (pidfd.valid() && ::poll(&entry, 1, kEndMs) == 0) ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

}  // namespace mayfly::cli
