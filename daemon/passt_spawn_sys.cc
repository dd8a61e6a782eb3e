// SPDX-License-Identifier: Apache-2.0
#include "daemon/passt_spawn_sys.h"

#include <cerrno>
#include <csignal>

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

const Failure kFailed{Code::kFailedPrecondition, "NET_PASST"};

// What is handed over, out of the way of the numbers that it gets there.
Result<Fd> out_of_the_way(FdRef fd) {
  constexpr int kAbove = 16;
  Fd copy(::fcntl(fd.number(), F_DUPFD_CLOEXEC, kAbove));
  if (!copy.valid()) return fail_errno({Code::kResourceExhausted, "FD"}, errno, "duplicate");
  return copy;
}

}  // namespace

Result<Fd> spawn_passt(const std::vector<std::string>& arguments, const PasstFiles& files) {
  const Fd socket = TRY(out_of_the_way(files.socket));
  const Fd ready = TRY(out_of_the_way(files.ready));
  const Fd error = TRY(out_of_the_way(files.error));
  std::vector<char*> argv;
  // SAFETY: execve takes them as char*, and does not change them.
  for (const std::string& word : arguments) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  char* const environment[] = {nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawnattr_init(&attributes);
  ::posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  ::posix_spawn_file_actions_adddup2(&actions, error.number(), STDERR_FILENO);
  ::posix_spawn_file_actions_adddup2(&actions, socket.number(), kPasstSocket);
  ::posix_spawn_file_actions_adddup2(&actions, ready.number(), kPasstReady);
  ::posix_spawn_file_actions_addclosefrom_np(&actions, kPasstReady + 1);
  sigset_t signals;
  ::sigemptyset(&signals);
  ::posix_spawnattr_setsigmask(&attributes, &signals);
  ::sigfillset(&signals);
  ::posix_spawnattr_setsigdefault(&attributes, &signals);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  pid_t pid = 0;
  // SAFETY: argv and environment are arrays of strings that end with a null pointer.
  const int failure = ::posix_spawn(&pid, argv[0], &actions, &attributes, argv.data(), environment);
  ::posix_spawnattr_destroy(&attributes);
  ::posix_spawn_file_actions_destroy(&actions);
  if (failure != 0) return fail_errno(kFailed, failure, "start %s", argv[0]);
  // It is our child until we reap it, so that its number is no other's.
  Fd process(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (process.valid()) return process;
  const int why = errno;
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  return fail_errno(kFailed, why, "pidfd of %s", argv[0]);
}

Result<> forbid_growth(FdRef memfd) {
  if (::fcntl(memfd.number(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK) == 0) return {};
  return fail_errno(kFailed, errno, "seal a memfd");
}

}  // namespace mayfly::daemon
