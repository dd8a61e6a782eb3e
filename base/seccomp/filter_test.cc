// SPDX-License-Identifier: Apache-2.0
// Filters written by hand, in processes of their own: what the kernel makes of install() and
// on_denial().
#include "base/fd.h"
#include "base/no_new_privs_sys.h"
#include "base/seccomp/filter_sys.h"

#include <doctest/doctest.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <functional>
#include <vector>

#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace mayfly::seccomp {
namespace {

constexpr uint16_t kTag = 7;
constexpr uint32_t kX32Bit = 0x4000'0000;
constexpr uint32_t kPlaceholder = 0x7fff'fffe;

// getpid(): denied. tgkill: only of the process itself. x32: killed. All else passes.
constexpr auto kProgram = std::to_array<sock_filter>({
    {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
    {BPF_JMP | BPF_JGE | BPF_K, 0, 1, kX32Bit},
    {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_KILL_PROCESS},
    {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, SYS_getpid},
    {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_TRAP | kTag},
    {BPF_JMP | BPF_JEQ | BPF_K, 0, 3, SYS_tgkill},
    {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, args[0])},
    {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, kPlaceholder},
    {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_TRAP | kTag},
    {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
});
constexpr std::array<uint16_t, 1> kOwnPidAt = {7};
constexpr Filter kFilter = {kProgram, kOwnPidAt};

struct Told {
  uint16_t tag;
  uint32_t number;
};
int told_fd = -1;

void tell(uint16_t tag, uint32_t number) {
  const Told told{tag, number};
  if (::write(told_fd, &told, sizeof(told)) < 0) ::_exit(90);
}

struct Outcome {
  int status = 0;
  std::vector<Told> told;

  bool killed() const { return WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS; }
  bool passed() const { return WIFEXITED(status) && WEXITSTATUS(status) == 0; }
};

// `act` in a process under the filter; it passes by returning.
Outcome under_filter(const std::function<void()>& act) {
  auto [reader, writer] = *Fd::pipe();
  const pid_t child = ::fork();
  REQUIRE_GE(child, 0);
  if (child == 0) {
    told_fd = writer.number();
    if (!forbid_new_privileges() || !on_denial(tell) || !install(kFilter)) ::_exit(91);
    act();
    ::_exit(0);
  }
  writer.reset();
  Outcome outcome;
  REQUIRE_EQ(::waitpid(child, &outcome.status, 0), child);
  Told told;
  while (::read(reader.number(), &told, sizeof(told)) == sizeof(told)) outcome.told.push_back(told);
  return outcome;
}

TEST_CASE("what the filter lets pass is executed") {
  const Outcome outcome = under_filter([] {
    if (::getppid() <= 0) ::_exit(1);
  });
  CHECK(outcome.passed());
  CHECK(outcome.told.empty());
}

TEST_CASE("a denied call is told with its filter and number, and ends the process by SIGSYS") {
  const Outcome outcome = under_filter([] { ::syscall(SYS_getpid); });
  CHECK(outcome.killed());
  REQUIRE_EQ(outcome.told.size(), 1);
  CHECK_EQ(outcome.told[0].tag, kTag);
  CHECK_EQ(outcome.told[0].number, SYS_getpid);
}

TEST_CASE("the process's id is filled in, and compared over 32 bits") {
  CHECK(under_filter([] { ::syscall(SYS_tgkill, ::gettid(), ::gettid(), 0); }).passed());
  CHECK(under_filter([] {
          ::syscall(SYS_tgkill, 0x5'0000'0000 | static_cast<unsigned>(::gettid()), ::gettid(), 0);
        }).passed());
  CHECK(under_filter([] { ::syscall(SYS_tgkill, ::getppid(), ::getppid(), 0); }).killed());
  CHECK(under_filter([] { ::syscall(SYS_tgkill, kPlaceholder, 1, 0); }).killed());
}

TEST_CASE("blocking or ignoring SIGSYS makes the kernel kill, untold") {
  const Outcome blocked = under_filter([] {
    sigset_t all;
    sigfillset(&all);
    ::sigprocmask(SIG_BLOCK, &all, nullptr);
    ::syscall(SYS_getpid);
  });
  CHECK(blocked.killed());
  CHECK(blocked.told.empty());
  const Outcome ignored = under_filter([] {
    std::signal(SIGSYS, SIG_IGN);
    ::syscall(SYS_getpid);
  });
  CHECK(ignored.killed());
  CHECK(ignored.told.empty());
}

TEST_CASE("SIGSYS from a process kills, and no denial is told") {
  const Outcome outcome =
      under_filter([] { ::syscall(SYS_tgkill, ::gettid(), ::gettid(), SIGSYS); });
  CHECK(outcome.killed());
  CHECK(outcome.told.empty());
}

TEST_CASE("filters stack: the stricter answer counts, the newer one's tag is told") {
  static constexpr auto kNoParent = std::to_array<sock_filter>({
      {BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
      {BPF_JMP | BPF_JEQ | BPF_K, 1, 0, SYS_getppid},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
      {BPF_RET | BPF_K, 0, 0, SECCOMP_RET_TRAP | 9},
  });
  const auto stacked = [](long number) {
    return under_filter([number] {
      if (!install({kNoParent, {}})) ::_exit(1);
      ::syscall(number);
    });
  };
  CHECK_EQ(stacked(SYS_getppid).told.at(0).tag, 9);
  CHECK_EQ(stacked(SYS_getpid).told.at(0).tag, kTag);
  CHECK(stacked(SYS_getuid).passed());
}

TEST_CASE("a program that the kernel refuses is an error") {
  static constexpr auto kNoReturn =
      std::to_array<sock_filter>({{BPF_LD | BPF_W | BPF_ABS, 0, 0, 0}});
  const Result<> result = install({kNoReturn, {}});
  REQUIRE_FALSE(result.has_value());
  CHECK_EQ(result.error().reason(), "SECCOMP");
}

}  // namespace
}  // namespace mayfly::seccomp
