// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/spawn_sys.h"

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string_view>
#include <vector>

#include <fcntl.h>
#include <grp.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace mayfly::guest {
namespace {

constexpr std::string_view kDefaultPath =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// What the child says when it fails before the program runs; nothing, when it runs.
enum class Step : uint32_t { kDirectory = 1, kTerminal, kStreams, kUser, kExec };
struct StepFailure {
  Step step;
  int32_t error;
};
static_assert(sizeof(StepFailure) == 8);

// Everything the child needs, made before the fork so that the child only makes system calls.
struct Plan {
  std::vector<std::string> env;
  std::vector<std::string> programs;
  std::vector<char*> argv;
  std::vector<char*> envp;
  std::string directory;
  bool terminal = false;
  std::optional<User> user;
  std::vector<gid_t> groups;
  Fd streams[3];
  Fd status;
};

std::string_view key_of(std::string_view entry) { return entry.substr(0, entry.find('=')); }

std::vector<std::string> environment(const ExecStart& start) {
  std::vector<std::string> env = {"PATH=" + std::string(kDefaultPath), "HOME=/root"};
  if (start.terminal) env.emplace_back("TERM=xterm-256color");
  for (const std::string& entry : start.env) {
    bool replaced = false;
    for (std::string& old : env) {
      if (key_of(old) != key_of(entry)) continue;
      old = entry;
      replaced = true;
    }
    if (!replaced) env.push_back(entry);
  }
  return env;
}

// The files to try, in order: the name itself where it has a slash, else each directory of PATH.
std::vector<std::string> candidates(const std::string& name, const std::vector<std::string>& env) {
  if (name.find('/') != name.npos) return {name};
  std::string_view path;
  for (const std::string& entry : env) {
    if (entry.starts_with("PATH=")) path = std::string_view(entry).substr(5);
  }
  std::vector<std::string> files;
  while (!path.empty()) {
    const size_t colon = std::min(path.find(':'), path.size());
    if (colon > 0) files.push_back(std::string(path.substr(0, colon)) + "/" + name);
    path.remove_prefix(std::min(colon + 1, path.size()));
  }
  return files;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (std::string& text : strings) out.push_back(text.data());
  out.push_back(nullptr);
  return out;
}

Result<> make_pipes(Plan& plan, Child& child) {
  auto in = TRY(Fd::pipe());
  auto out = TRY(Fd::pipe());
  auto err = TRY(Fd::pipe());
  plan.streams[0] = std::move(in.first);
  plan.streams[1] = std::move(out.second);
  plan.streams[2] = std::move(err.second);
  child.stdin_end = std::move(in.second);
  child.stdout_end = std::move(out.first);
  child.stderr_end = std::move(err.first);
  return {};
}

Result<> make_terminal(Plan& plan, Child& child, WindowSize window) {
  child.stdout_end = TRY(Fd::open("/dev/ptmx", O_RDWR | O_NOCTTY));
  const int master = child.stdout_end.number();
  // SAFETY: ioctls on a descriptor of ours; TIOCSPTLCK reads one int and TIOCGPTPEER takes flags by
  // value. TIOCGPTPEER needs no /dev/pts in the root.
  int unlock = 0;
  if (::ioctl(master, TIOCSPTLCK, &unlock) != 0) {
    return fail_errno({Code::kInternal, "TERMINAL"}, errno, "unlock a new terminal");
  }
  Fd side(::ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC));
  if (!side.valid()) return fail_errno({Code::kInternal, "TERMINAL"}, errno, "open a new terminal");
  if (window.rows != 0 || window.columns != 0) set_window_size(child.stdout_end.ref(), window);
  for (Fd& stream : plan.streams) stream = TRY(Fd::duplicate(side.ref()));
  child.stdin_end = TRY(Fd::duplicate(child.stdout_end.ref()));
  child.terminal_side = std::move(side);
  return {};
}

void reset_signals() {
  for (int number = 1; number < NSIG; ++number) ::signal(number, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
}

[[noreturn]] void give_up(const Plan& plan, Step step, int error) {
  const StepFailure failure{step, error};
  (void)!::write(plan.status.number(), &failure, sizeof(failure));
  ::_exit(127);
}

// Tries each file as execvp(3) does: a directory of PATH that lacks the program or denies it is
// passed over, and a denial is what is reported in the end.
[[noreturn]] void exec_program(const Plan& plan) {
  int error = ENOENT;
  for (const std::string& file : plan.programs) {
    ::execve(file.c_str(), plan.argv.data(), plan.envp.data());
    if (errno == EACCES) {
      error = EACCES;
    } else if (errno != ENOENT && errno != ENOTDIR) {
      give_up(plan, Step::kExec, errno);
    } else if (plan.programs.size() == 1) {
      error = errno;
    }
  }
  give_up(plan, Step::kExec, error);
}

// Groups first: afterwards we may not. A terminal becomes the user's, so that it can be opened by
// its name. errno says what failed.
bool become(const User& user, const std::vector<gid_t>& groups, bool terminal) {
  return (!terminal || ::fchown(STDIN_FILENO, user.uid, user.gid) == 0) &&
         ::setgroups(groups.size(), groups.data()) == 0 &&
         ::setresgid(user.gid, user.gid, user.gid) == 0 &&
         ::setresuid(user.uid, user.uid, user.uid) == 0;
}

[[noreturn]] void run_child(const Plan& plan) {
  reset_signals();
  ::setsid();
  // SAFETY: ioctl on a terminal of ours that takes its argument by value.
  if (plan.terminal && ::ioctl(plan.streams[0].number(), TIOCSCTTY, 0) != 0) {
    give_up(plan, Step::kTerminal, errno);
  }
  for (int number = 0; number < 3; ++number) {
    // The descriptors are all above 2 (the agent keeps its own 0 to 2 open), so none overwrites
    // another.
    if (::dup2(plan.streams[number].number(), number) < 0) give_up(plan, Step::kStreams, errno);
  }
  if (plan.user && !become(*plan.user, plan.groups, plan.terminal)) {
    give_up(plan, Step::kUser, errno);
  }
  const char* directory = plan.directory.empty() ? "/" : plan.directory.c_str();
  if (::chdir(directory) != 0) give_up(plan, Step::kDirectory, errno);
  exec_program(plan);
}

}  // namespace

Result<Child> spawn(const ExecStart& start) {
  Plan plan;
  Child child;
  std::vector<std::string> arguments = start.argv;
  plan.env = environment(start);
  plan.programs = candidates(start.argv[0], plan.env);
  plan.argv = pointers(arguments);
  plan.envp = pointers(plan.env);
  plan.directory = start.working_directory;
  plan.terminal = start.terminal;
  plan.user = start.user;
  if (start.user) plan.groups.assign(start.user->groups.begin(), start.user->groups.end());
  if (start.terminal) {
    TRY(make_terminal(plan, child, start.window));
  } else {
    TRY(make_pipes(plan, child));
  }
  auto status = TRY(Fd::pipe());
  child.exec_status = std::move(status.first);
  plan.status = std::move(status.second);
  for (const Fd* end :
       {&child.stdin_end, &child.stdout_end, &child.stderr_end, &child.exec_status}) {
    if (end->valid()) TRY(set_nonblocking(end->ref(), true));
  }
  // SAFETY: the agent has one thread, so the child may run any code; it only execs or exits.
  child.pid = ::fork();
  if (child.pid < 0) return fail_errno({Code::kResourceExhausted, "FORK"}, errno, "fork");
  if (child.pid == 0) run_child(plan);
  return child;
}

ExecStatus read_exec_status(FdRef exec_status, const ExecStart& start, ExecFailure& failure) {
  StepFailure said{};
  const ssize_t count = ::read(exec_status.number(), &said, sizeof(said));
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return ExecStatus::kPending;
  if (count != sizeof(said)) return ExecStatus::kRunning;
  failure.guest_errno = said.error;
  const char* reason = std::strerror(said.error);
  switch (said.step) {
    case Step::kDirectory:
      failure.message =
          format("working_directory %.256s: %s", start.working_directory.c_str(), reason);
      break;
    case Step::kTerminal:
      failure.message = format("take a terminal: %s", reason);
      break;
    case Step::kStreams:
      failure.message = format("set up standard streams: %s", reason);
      break;
    case Step::kUser:
      failure.message = format("become user %u, group %u: %s", start.user ? start.user->uid : 0,
                               start.user ? start.user->gid : 0, reason);
      break;
    case Step::kExec:
      failure.message = format("%.256s: %s", start.argv[0].c_str(), reason);
      break;
  }
  return ExecStatus::kFailed;
}

void set_window_size(FdRef terminal, WindowSize size) {
  winsize window{};
  window.ws_row = size.rows;
  window.ws_col = size.columns;
  // SAFETY: TIOCSWINSZ reads one winsize; on a pipe it fails and nothing is to be done.
  (void)::ioctl(terminal.number(), TIOCSWINSZ, &window);
}

size_t bytes_waiting(FdRef pipe) {
  int count = 0;
  // SAFETY: FIONREAD writes one int.
  if (::ioctl(pipe.number(), FIONREAD, &count) != 0 || count < 0) return 0;
  return static_cast<size_t>(count);
}

}  // namespace mayfly::guest
