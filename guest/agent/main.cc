// SPDX-License-Identifier: Apache-2.0
//
// mayfly-agent: the first program of a guest, or a service of its own init. See guest/README.md.
#include "base/clock.h"
#include "base/log.h"
#include "guest/agent/guest_sys.h"
#include "guest/agent/metadata_command.h"
#include "guest/agent/metadata_sys.h"
#include "guest/agent/network_sys.h"
#include "guest/agent/root.h"
#include "guest/agent/service.h"
#include "guest/agent/vsock_sys.h"

#include <cerrno>
#include <csignal>
#include <cstring>
#include <ctime>
#include <span>
#include <string_view>

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::guest {
namespace {

constexpr const char* kVersion = "0.1.0";
constexpr uint64_t kMillisecond = 1'000'000;
constexpr uint64_t kTermGraceNs = 1000 * kMillisecond;
constexpr uint64_t kKillGraceNs = 200 * kMillisecond;
constexpr uint64_t kProcessScanNs = 20 * kMillisecond;

uint64_t boottime_us() {
  timespec now;
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000 + static_cast<uint64_t>(now.tv_nsec) / 1000;
}

uint32_t cpu_count() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return static_cast<uint32_t>(CPU_COUNT(&set));
}

// Forks: the child is the agent from here on, and this process becomes the guest's own init.
// Returns in the child, with an error if the init could not be run; PID 1 then stays behind to reap
// orphans.
Result<> give_way_to(const std::string& init, char* own_name) {
  auto status = TRY(Fd::pipe());
  const pid_t pid = ::fork();
  if (pid < 0) return fail_errno({Code::kResourceExhausted, "FORK"}, errno, "fork");
  if (pid > 0) {
    std::string name = init;
    char* const argv[] = {name.data(), nullptr};
    ::execv(init.c_str(), argv);
    const int error = errno;
    (void)!::write(status.second.number(), &error, sizeof(error));
    status.second.reset();
    for (;;) {
      if (::waitpid(-1, nullptr, 0) < 0) ::pause();
    }
  }
  ::setsid();
  // systemd spares processes named so when it ends all others.
  own_name[0] = '@';
  status.second.reset();
  int error = 0;
  if (::read(status.first.number(), &error, sizeof(error)) == sizeof(error)) {
    return fail_errno({Code::kNotFound, "INIT"}, error, "mayfly.init=%s", init.c_str());
  }
  return {};
}

Result<> set_up_guest(char* own_name) {
  TRY(mount_kernel_file_systems());
  secure_standard_streams();
  load_modules();
  const BootOptions options = TRY(read_boot_options());
  if (!options.hostname.empty() &&
      ::sethostname(options.hostname.data(), options.hostname.size()) != 0) {
    log(LogLevel::kInfo, "mayfly.hostname=: %s", std::strerror(errno));
  }
  if (const Result<> up = bring_up_loopback(); !up) {
    log(LogLevel::kInfo, "%s", up.error().message().c_str());
  }
  if (!options.root.empty()) {
    TRY(switch_root(options));
    mount_scratch(options);
  }
  if (!options.init.empty()) TRY(give_way_to(options.init, own_name));
  return {};
}

bool is_number(const char* text) { return text[std::strspn(text, "0123456789")] == '\0'; }

// Whether any process other than PID 1, this one and the kernel's threads (which have no command
// line) lives.
bool others_live() {
  DIR* entries = ::opendir("/proc");
  if (entries == nullptr) return true;
  bool found = false;
  while (const dirent* entry = ::readdir(entries)) {
    if (!is_number(entry->d_name) || std::strcmp(entry->d_name, "1") == 0) continue;
    if (std::to_string(::getpid()) == entry->d_name) continue;
    Fd file(::openat(::dirfd(entries), (std::string(entry->d_name) + "/cmdline").c_str(),
                     O_RDONLY | O_CLOEXEC));
    char byte = 0;
    found = found || (file.valid() && ::read(file.number(), &byte, 1) == 1);
  }
  ::closedir(entries);
  return found;
}

// Keeps serving (commands report how they ended) until no process is left or `grace_ns` is over.
void wait_for_end_of_processes(Service& service, uint64_t grace_ns) {
  const bool first = ::getpid() == 1;
  const uint64_t deadline = monotonic_ns() + grace_ns;
  while (first ? service.reap() : others_live()) {
    const uint64_t now = monotonic_ns();
    if (now >= deadline) return;
    if (!service.step(first ? deadline : std::min(deadline, now + kProcessScanNs))) return;
  }
}

void shut_down(Service& service, ShutdownMode mode) {
  ::kill(-1, SIGTERM);
  ::kill(-1, SIGCONT);
  wait_for_end_of_processes(service, kTermGraceNs);
  ::kill(-1, SIGKILL);
  wait_for_end_of_processes(service, kKillGraceNs);
  (void)service.step(monotonic_ns());
  quiesce_file_systems();
  const Error error = power_down(mode);
  log(LogLevel::kError, "%s", error.message().c_str());
  service.shutdown_failed(error.message());
}

Result<> serve(uint64_t init_us, std::string failure) {
  ServiceOptions options;
  options.failure = failure;
  options.shutdown_signals = ::getpid() == 1;
  // Before Hello: whoever has read Hello may connect at once.
  options.listener = TRY(listen_for_host(kAgentPort));
  options.listen_for_metadata = listen_for_metadata;
  const auto hello = [init_us, failure] {
    utsname kernel{};
    ::uname(&kernel);
    return Hello{kVersion, kernel.release, cpu_count(), init_us, boottime_us(), failure};
  };
  options.link =
      std::make_unique<ControlLink>([] { return connect_to_host(kAgentPort); }, hello,
                                    [](const Restored& restored) {
                                      const Reseeded done = reseed(restored);
                                      if (!done.failure.empty()) {
                                        log(LogLevel::kError, "restored: %s", done.failure.c_str());
                                      }
                                      return done;
                                    },
                                    [](const Network& network) {
                                      const Result<> set = set_network(network);
                                      if (set) return std::string();
                                      log(LogLevel::kError, "%s", set.error().describe().c_str());
                                      return set.error().message();
                                    });
  const std::unique_ptr<Service> service = TRY(Service::create(std::move(options)));
  for (;;) {
    TRY(service->step(kNever));
    if (const auto mode = service->shutdown()) shut_down(*service, *mode);
  }
}

int run(char* own_name) {
  const uint64_t init_us = boottime_us();
  log_init("mayfly-agent", LogLevel::kInfo);
  ::signal(SIGPIPE, SIG_IGN);
  ::umask(022);
  std::string failure;
  const bool first = ::getpid() == 1;
  if (first) {
    if (const Result<> ready = set_up_guest(own_name); !ready) {
      failure = ready.error().message();
      log(LogLevel::kError, "%s", ready.error().describe().c_str());
    }
  } else {
    secure_standard_streams();
  }
  const Result<> served = serve(init_us, failure);
  log(LogLevel::kError, "%s", served.error().describe().c_str());
  // PID 1 must not end: the kernel would panic. The host sees no Hello and decides.
  while (::getpid() == 1) ::pause();
  return 1;
}

}  // namespace
}  // namespace mayfly::guest

int main(int argc, char** argv) {
  const std::span<char* const> words(argv, static_cast<size_t>(argc));
  // What the kernel hands to its first program is for nobody else.
  if (words.size() > 1 && words[1] == std::string_view("metadata") && ::getpid() != 1) {
    return mayfly::guest::metadata_command(words.subspan(2), mayfly::guest::connect_to_metadata);
  }
  return mayfly::guest::run(argv[0]);
}
