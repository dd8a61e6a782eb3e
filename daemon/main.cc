// SPDX-License-Identifier: Apache-2.0
//
// mayflyd: reads its flags, serves until a signal or, with --private, until its client is gone.
#include "base/fd.h"
#include "base/log.h"
#include "daemon/address_pool.h"
#include "daemon/confine_sys.h"
#include "daemon/jail.h"
#include "daemon/server.h"
#include "daemon/snapshot_store.h"
#include "daemon/state_dir.h"
#include "daemon/unix_socket_sys.h"

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::daemon {
namespace {

constexpr auto kSignalGrace = std::chrono::milliseconds(5000);
constexpr int kFdTableSize = 16384;

struct Flags {
  std::string socket;
  std::string state_dir;
  std::string snapshot_dir;
  std::string vmm;
  std::string jailer;
  std::string jail = "auto";
  std::string uid_range;
  std::string cgroup_parent;
  std::string agent_initrd;
  std::string kvm_device = "/dev/kvm";
  std::string userfault_device = "/dev/userfaultfd";
  std::string net_pool = kDefaultNetPool;
  std::string passt;
  int private_fd = -1;
  bool verbose = false;
  // The socket's directory is ours, to be removed at the end.
  bool made_socket_dir = false;
};

std::string socket_dir(const Flags& flags) {
  const std::string parent = flags.socket.substr(0, flags.socket.rfind('/'));
  return parent.empty() ? "/" : parent;
}

/// Where a daemon of this user lives unless it is told otherwise.
std::string default_home() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (::geteuid() != 0 && runtime != nullptr && runtime[0] == '/')
    return std::string(runtime) + "/mayfly";
  return "/run/mayfly";
}

Result<> fill_defaults(Flags& flags) {
  std::error_code error;
  const auto beside = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  if (flags.vmm.empty()) flags.vmm = beside / "mayfly-vmm";
  if (flags.jailer.empty()) flags.jailer = beside / "mayfly-jailer";
  if (flags.agent_initrd.empty()) {
    const auto agent = beside / "guest" / "agent.cpio";
    if (std::filesystem::exists(agent, error)) flags.agent_initrd = agent;
  }
  if (flags.socket.starts_with("unix:")) flags.socket.erase(0, 5);
  while (flags.socket.starts_with("//")) flags.socket.erase(0, 1);
  if (flags.socket.empty()) {
    const std::string home = flags.private_fd >= 0 ? TRY(make_private_dir()) : default_home();
    flags.socket = home + "/mayflyd.sock";
    flags.made_socket_dir = flags.private_fd >= 0;
  }
  TRY(check_socket_path("--socket", flags.socket));
  if (TRY(make_dir(socket_dir(flags)))) flags.made_socket_dir = true;
  if (flags.state_dir.empty()) flags.state_dir = socket_dir(flags) + "/state";
  if (flags.snapshot_dir.empty()) {
    const std::string state_dir(flags.state_dir, 0, flags.state_dir.find_last_not_of('/') + 1);
    flags.snapshot_dir = state_dir.substr(0, state_dir.rfind('/')) + "/snapshots";
  }
  if (::access(flags.vmm.c_str(), X_OK) != 0) {
    return fail_errno({Code::kNotFound, "VMM_MISSING"}, errno, "--vmm: cannot run %s",
                      flags.vmm.c_str());
  }
  if (::access(flags.jailer.c_str(), X_OK) != 0) {
    return fail_errno({Code::kNotFound, "JAILER_MISSING"}, errno, "--jailer: cannot run %s",
                      flags.jailer.c_str());
  }
  return {};
}

/// As many descriptors as we may have, and a table for them now: growing it later, with threads,
/// takes tens of milliseconds.
void prepare_descriptors() {
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  const auto highest = std::min<rlim_t>(limit.rlim_max, kFdTableSize);
  const Fd last(::fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, static_cast<int>(highest) - 1));
}

/// Descriptors 0, 1 and 2 are never anything else, or a monitor would be handed the wrong file.
void fill_standard_descriptors() {
  int fd = 0;
  do {
    fd = ::open("/dev/null", O_RDWR);
  } while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) ::close(fd);
}

/// Tells the client of a private daemon, if there is one.
void tell_client(int private_fd, const std::string& line) {
  if (private_fd < 0) return;
  const std::string text = line + "\n";
  (void)write_all(FdRef(private_fd), std::as_bytes(std::span(text)));
}

/// Waits for a signal, or for the client's end; the grace for the VMs is the answer.
std::chrono::milliseconds wait_for_end(FdRef signals, int private_fd) {
  pollfd entries[] = {
      {.fd = signals.number(), .events = POLLIN, .revents = 0},
      {.fd = private_fd, .events = POLLIN, .revents = 0},  // -1 is passed over.
  };
  for (;;) {
    if (::poll(entries, 2, -1) < 0) continue;
    if (entries[0].revents != 0) {
      log(LogLevel::kInfo, "told to stop by a signal");
      return kSignalGrace;
    }
    char ignored[64];
    if (entries[1].revents != 0 && ::read(private_fd, ignored, sizeof(ignored)) <= 0) {
      return std::chrono::milliseconds(0);
    }
  }
}

Result<> serve(Flags& flags, FdRef signals) {
  TRY(fill_defaults(flags));
  // Locked before anything of this state directory's VMs is swept.
  auto state_dir = TRY(StateDir::open(flags.state_dir));
  auto snapshots = TRY(SnapshotStore::open(flags.snapshot_dir));
  auto jails = TRY(JailHost::open({.mode = flags.jail,
                                   .uid_range = flags.uid_range,
                                   .cgroup_parent = flags.cgroup_parent,
                                   .jailer_path = flags.jailer,
                                   .vmm_path = flags.vmm,
                                   .state_dir = flags.state_dir}));
  for (const std::string& warning : jails->warnings())
    log(LogLevel::kWarning, "%s", warning.c_str());
  log(LogLevel::kInfo, "jail: %s%s%s", jail_mode_name(jails->mode()),
      jails->reason().empty() ? "" : ", since ", jails->reason().c_str());
  TRY(confine_ourselves(*jails));
  const auto server =
      TRY(Server::create({.socket_path = flags.socket,
                          .agent_initrd = flags.agent_initrd,
                          .kvm_device = flags.kvm_device,
                          .userfault_device = flags.userfault_device,
                          .net_pool = flags.net_pool,
                          .passt = flags.passt},
                         {std::move(state_dir), std::move(snapshots)}, std::move(jails)));
  log(LogLevel::kInfo, "serving on unix:%s, state in %s, snapshots in %s", flags.socket.c_str(),
      flags.state_dir.c_str(), flags.snapshot_dir.c_str());
  tell_client(flags.private_fd, "ready unix:" + flags.socket);
  server->stop(wait_for_end(signals, flags.private_fd));
  return {};
}

int serve_and_report(Flags flags, FdRef signals) {
  const auto served = serve(flags, signals);
  if (!served) {
    log(LogLevel::kError, "%s", served.error().message().c_str());
    tell_client(flags.private_fd, "error " + served.error().message());
  }
  if (flags.made_socket_dir) ::rmdir(socket_dir(flags).c_str());
  return served ? 0 : 1;
}

}  // namespace
}  // namespace mayfly::daemon

int main(int argc, char** argv) {
  using namespace mayfly;
  daemon::Flags flags;
  CLI::App app(
      "mayflyd, the daemon of Mayfly: runs microVMs and serves the gRPC API mayfly.v1 on a Unix "
      "socket.");
  app.add_option(
      "--socket", flags.socket,
      "unix:/PATH to serve on, at most 107 bytes (default: $XDG_RUNTIME_DIR/mayfly/mayflyd.sock, "
      "for root /run/mayfly/mayflyd.sock)");
  app.add_option("--state-dir", flags.state_dir,
                 "directory for running VMs' files (default: state, beside the socket)");
  app.add_option("--snapshot-dir", flags.snapshot_dir,
                 "directory for snapshots, which outlive this daemon; made with the first of them "
                 "(default: snapshots, beside the state directory)");
  app.add_option("--vmm", flags.vmm,
                 "the monitor program (default: mayfly-vmm beside this program)");
  app.add_option("--jailer", flags.jailer,
                 "the program that confines monitors (default: mayfly-jailer beside this program)");
  app.add_option("--jail", flags.jail,
                 "how monitors are confined: auto, root (a user id for each VM), user (a user "
                 "namespace of our own id), off (not at all; for debugging); auto is root where we "
                 "are root, else user")
      ->capture_default_str()
      ->type_name("MODE");
  app.add_option("--uid-range", flags.uid_range,
                 "for --jail=root: user and group ids that are nobody else's, one for each VM "
                 "(default: 900000-965535)")
      ->type_name("FIRST-LAST");
  app.add_option("--cgroup-parent", flags.cgroup_parent,
                 "the cgroup below which each VM has its own, from the root of the tree (default: "
                 "`mayfly` below the daemon's)")
      ->type_name("PATH");
  app.add_option(
      "--agent-initrd", flags.agent_initrd,
      "the agent's initrd (default: guest/agent.cpio beside this program, if it is there)");
  app.add_option("--kvm-device", flags.kvm_device, "the KVM device")->capture_default_str();
  app.add_option("--userfault-device", flags.userfault_device,
                 "the device that lets a VM run before its memory is there")
      ->capture_default_str();
  app.add_option("--net-pool", flags.net_pool,
                 "IPv4 addresses for VMs that name none: four for each of their networks")
      ->capture_default_str();
  app.add_option("--passt", flags.passt,
                 "the program that is the network of VMs where no devices may be made (default: "
                 "the host's passt)");
  app.add_option("--private", flags.private_fd,
                 "serve one client: say `ready unix:PATH` on this inherited descriptor, and end "
                 "when its other "
                 "end is closed; makes a directory of its own");
  app.add_flag("--verbose", flags.verbose, "log more");
  app.set_version_flag("--version", "mayflyd 0.1.0");
  CLI11_PARSE(app, argc, argv);

  ::umask(0077);
  daemon::fill_standard_descriptors();
  daemon::prepare_descriptors();
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t end_signals;
  sigemptyset(&end_signals);
  sigaddset(&end_signals, SIGTERM);
  sigaddset(&end_signals, SIGINT);
  sigaddset(&end_signals, SIGHUP);
  ::pthread_sigmask(SIG_BLOCK, &end_signals, nullptr);  // Before any thread.
  const bool quiet = flags.private_fd >= 0 && !flags.verbose;
  log_init("mayflyd", flags.verbose ? LogLevel::kDebug
                      : quiet       ? LogLevel::kError
                                    : LogLevel::kInfo);
  if (flags.private_fd >= 0) ::fcntl(flags.private_fd, F_SETFD, FD_CLOEXEC);
  const Fd signals(::signalfd(-1, &end_signals, SFD_CLOEXEC | SFD_NONBLOCK));
  return daemon::serve_and_report(std::move(flags), signals.ref());
}
