// SPDX-License-Identifier: Apache-2.0
//
// Launches the escapee once for every attempt, and prints a line of JSON for each: the attempt,
// what must stop it, and how it ended. See README.md.
#include "base/log.h"
#include "jailer/empty_namespaces.h"
#include "jailer/launch.h"
#include "tests/security/attempt.h"
#include "tests/security/host_world.h"

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

using namespace mayfly;
using namespace mayfly::escape;

constexpr const char* kUsage =
    "usage: try_escape --list\n"
    "       try_escape --escapee=PATH --jailer=PATH --directory=PATH --jail=root|user|none\n"
    "                  --policy=none|start|loop|vcpu [--uid=N] [--loose] [--attempt=NAME]...\n"
    "  --uid    root: that of the jail; user: whom to be first\n"
    "  --loose  without what descriptors and the ring forbid by themselves\n";

constexpr int kTimeLimitMs = 30'000;
constexpr uid_t kNeighbourOffset = 1;

struct Options {
  std::string escapee;
  std::string jailer;
  std::string directory;
  std::optional<jailer::JailMode> jail;  // none: not even the jailer
  std::string policy;
  uid_t uid = 0;
  Looseness looseness = Looseness::kStrict;
  std::vector<std::string> attempts;  // none: all
};

bool parse_jail(std::string_view text, Options& options) {
  if (text == "root") options.jail = jailer::JailMode::kRoot;
  if (text == "user") options.jail = jailer::JailMode::kUser;
  return options.jail.has_value() || text == "none";
}

bool parse_option(std::string_view argument, Options& options) {
  if (argument == "--loose") {
    options.looseness = Looseness::kLoose;
    return true;
  }
  const size_t equals = argument.find('=');
  if (equals == std::string_view::npos) return false;
  const std::string_view key = argument.substr(0, equals);
  const std::string_view value = argument.substr(equals + 1);
  if (key == "--jail") return parse_jail(value, options);
  if (key == "--uid") {
    const auto [end, error] =
        std::from_chars(value.data(), value.data() + value.size(), options.uid);
    return error == std::errc() && end == value.data() + value.size();
  }
  if (key == "--attempt") {
    options.attempts.emplace_back(value);
    return find_attempt(options.attempts.back().c_str()) != nullptr;
  }
  for (const auto& [name, text] :
       {std::pair{"--escapee", &options.escapee}, std::pair{"--jailer", &options.jailer},
        std::pair{"--directory", &options.directory}, std::pair{"--policy", &options.policy}}) {
    if (key == name) {
      *text = value;
      return true;
    }
  }
  return false;
}

/// The programs, opened while we still may.
struct Programs {
  Fd jailer;
  Fd escapee;
};

struct End {
  int status = 0;
  std::string said;
};

class Launcher {
 public:
  Launcher(const Options& options, const Programs& programs)
      : options_(options), programs_(programs) {}

  Result<> prepare() {
    if (options_.jail == jailer::JailMode::kRoot) {
      namespaces_ = TRY(jailer::make_empty_namespaces());
    }
    return {};
  }

  /// Its standard error goes to `errors`.
  Result<jailer::Launched> launch(std::vector<std::string> arguments,
                                  const std::vector<Fd>& descriptors, FdRef errors, uid_t uid) {
    arguments.insert(arguments.begin(), "escapee");
    if (!options_.jail) return launch_plainly(arguments, descriptors, errors);
    jailer::LaunchPlan plan;
    plan.jailer = programs_.jailer.ref();
    plan.program = programs_.escapee.ref();
    plan.arguments = std::move(arguments);
    plan.standard_error = errors;
    plan.leaves_proc_self = true;
    for (const Fd& fd : descriptors) plan.inherited.push_back(fd.ref());
    plan.jail.mode = *options_.jail;
    plan.jail.uid = uid;
    plan.jail.gid = uid;
    plan.jail.namespaces = namespaces_.shared();
    plan.jail.max_file_bytes = kDiskBytes;
    return jailer::launch(plan);
  }

 private:
  /// As any program of ours is started, but where mounts and host names are nobody else's: some
  /// attempts succeed.
  Result<jailer::Launched> launch_plainly(const std::vector<std::string>& arguments,
                                          const std::vector<Fd>& descriptors, FdRef errors) {
    const pid_t child = ::fork();
    if (child < 0) return fail_errno({Code::kInternal, "FORK"}, errno, "fork");
    if (child == 0) become(arguments, descriptors, errors);
    return jailer::Launched{.pid = child, .pidfd = Fd()};
  }

  [[noreturn]] void become(const std::vector<std::string>& arguments,
                           const std::vector<Fd>& descriptors, FdRef errors) {
    constexpr int kAbove = 100;  // all numbers that are to be given
    if (::unshare(CLONE_NEWNS | CLONE_NEWUTS) != 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
      ::_exit(1);
    }
    const int program = ::fcntl(programs_.escapee.number(), F_DUPFD_CLOEXEC, kAbove);
    std::vector<int> moved;
    for (const Fd& fd : descriptors) {
      moved.push_back(::fcntl(fd.number(), F_DUPFD_CLOEXEC, kAbove));
    }
    ::dup2(errors.number(), STDERR_FILENO);
    for (size_t i = 0; i < moved.size(); ++i) ::dup2(moved[i], kControl + static_cast<int>(i));
    for (int fd = kControl + static_cast<int>(moved.size()); fd < kAbove; ++fd) ::close(fd);
    std::vector<char*> argv;
    // SAFETY: execveat() does not write to its arguments.
    for (const std::string& argument : arguments)
      argv.push_back(const_cast<char*>(argument.data()));
    argv.push_back(nullptr);
    char* environment[] = {nullptr};
    ::execveat(program, "", argv.data(), environment, AT_EMPTY_PATH);
    ::_exit(1);
  }

  const Options& options_;
  const Programs& programs_;
  jailer::EmptyNamespaces namespaces_;
};

/// What was written until the writers are gone or the time is over; then the end of the process.
Result<End> wait_for(const jailer::Launched& launched, FdRef errors) {
  End end;
  char buffer[4096];
  pollfd entry = {errors.number(), POLLIN, 0};
  while (::poll(&entry, 1, kTimeLimitMs) > 0) {
    const ssize_t size = ::read(errors.number(), buffer, sizeof(buffer));
    if (size <= 0) break;
    end.said.append(buffer, static_cast<size_t>(size));
  }
  if (entry.revents == 0) {
    ::kill(launched.pid, SIGKILL);
    end.said += "(killed: out of time)";
  }
  if (::waitpid(launched.pid, &end.status, __WALL) != launched.pid) {
    return fail_errno({Code::kInternal, "WAIT"}, errno, "wait for process %d", launched.pid);
  }
  return end;
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '\n') {
      out += ' ';
    } else if (c >= ' ' && c <= '~' && c != '"' && c != '\\') {
      out += c;
    }
  }
  return out + '"';
}

// In the order of their bits.
constexpr const char* kLayerNames[] = {"seccomp", "before-run", "root", "pids",
                                       "network", "ipc",        "ids",  "own-id",
                                       "limits",  "landlock",   "ring", "descriptor"};

std::string list_layers(uint32_t layers) {
  std::string list = "[";
  for (size_t i = 0; i < std::size(kLayerNames); ++i) {
    if ((layers >> i & 1) == 0) continue;
    list += (list.size() > 1 ? ", " : "") + quoted(kLayerNames[i]);
  }
  return list + "]";
}

void print(const Attempt& attempt) {
  std::printf("{\"attempt\": %s, \"gives\": %s, \"layers\": %s", quoted(attempt.name).c_str(),
              quoted(attempt.gives).c_str(), list_layers(attempt.layers).c_str());
}

void print(const Attempt& attempt, const End& end) {
  const bool signalled = WIFSIGNALED(end.status);
  print(attempt);
  std::printf(", \"%s\": %d, \"said\": %s}\n", signalled ? "signal" : "code",
              signalled ? WTERMSIG(end.status) : WEXITSTATUS(end.status), quoted(end.said).c_str());
}

Result<> try_one(Launcher& launcher, HostWorld& world, const Options& options,
                 const Attempt& attempt) {
  auto [errors, errors_end] = TRY(Fd::pipe());
  std::vector<std::string> arguments = {"--policy=" + options.policy,
                                        std::string("--attempt=") + attempt.name};
  if (options.looseness == Looseness::kLoose) arguments.push_back("--loose");
  if (options.jail) arguments.push_back(format("--proc-self-fd=%d", kProcSelf));
  const auto descriptors = TRY(world.descriptors());
  const auto launched =
      TRY(launcher.launch(std::move(arguments), descriptors, errors_end.ref(), options.uid));
  errors_end.reset();
  print(attempt, TRY(wait_for(launched, errors.ref())));
  return {};
}

Result<> try_all(Launcher& launcher, HostWorld& world, const Options& options) {
  if (!options.attempts.empty()) {
    for (const std::string& name : options.attempts) {
      TRY(try_one(launcher, world, options, *find_attempt(name.c_str())));
    }
    return {};
  }
  for (const auto& group : all_attempts()) {
    for (const Attempt& attempt : group) TRY(try_one(launcher, world, options, attempt));
  }
  return {};
}

/// From root to an ordinary user, for good.
Result<> become_user(uid_t uid) {
  if (::setgroups(0, nullptr) == 0 && ::setresgid(uid, uid, uid) == 0 &&
      ::setresuid(uid, uid, uid) == 0) {
    return {};
  }
  return fail_errno({Code::kPermissionDenied, "UID"}, errno, "become user %u", uid);
}

Result<> run(const Options& options) {
  Programs programs = {
      .jailer = TRY(Fd::open(options.jailer.c_str(), O_RDONLY)),
      .escapee = TRY(Fd::open(options.escapee.c_str(), O_RDONLY)),
  };
  Fd kvm = TRY(Fd::open("/dev/kvm", O_RDWR));
  if (options.jail == jailer::JailMode::kUser && options.uid != 0) TRY(become_user(options.uid));
  const auto world = TRY(HostWorld::create(options.directory, std::move(kvm), options.looseness));
  Launcher launcher(options, programs);
  TRY(launcher.prepare());
  const Fd nowhere = TRY(Fd::open("/dev/null", O_WRONLY));
  const auto neighbour =
      TRY(launcher.launch({"--wait"}, {}, nowhere.ref(), options.uid + kNeighbourOffset));
  world->set_neighbour(neighbour.pid);
  Result<> tried = try_all(launcher, *world, options);
  ::kill(neighbour.pid, SIGKILL);
  ::waitpid(neighbour.pid, nullptr, __WALL);
  return tried;
}

}  // namespace

int main(int argc, char** argv) {
  log_init("try_escape", LogLevel::kInfo);
  Options options;
  if (argc == 2 && std::string_view(argv[1]) == "--list") {
    for (const auto& group : all_attempts()) {
      for (const Attempt& attempt : group) {
        print(attempt);
        std::printf("}\n");
      }
    }
    return 0;
  }
  for (int i = 1; i < argc; ++i) {
    if (!parse_option(argv[i], options)) {
      std::fprintf(stderr, "%s: not understood\n%s", argv[i], kUsage);
      return 2;
    }
  }
  const Result<> result = run(options);
  if (result) return 0;
  log(LogLevel::kError, "%s", result.error().describe().c_str());
  return 1;
}
