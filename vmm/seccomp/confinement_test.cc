// SPDX-License-Identifier: Apache-2.0
// The policies in force, in processes of their own: the kernel's answers, and what is told.
#include "vmm/seccomp/confinement.h"

#include "base/fd.h"
#include "base/seccomp/filter_sys.h"
#include "proto/control.pb.h"
#include "vmm/seccomp/compiled_filters.h"
#include "vmm/seccomp/policies.h"

#include <doctest/doctest.h>

#include <bit>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include <asm/unistd.h>
#include <fcntl.h>
#include <malloc.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" [[noreturn]] void __stack_chk_fail();

namespace mayfly::vmm {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // Its run-time makes calls of its own.
#else
constexpr bool kSanitized = false;
#endif

constexpr ThreadKind kKinds[] = {ThreadKind::kStart, ThreadKind::kLoop, ThreadKind::kVcpu,
                                 ThreadKind::kGuard};

struct Outcome {
  int status = 0;
  control::ExitReport report;
  std::string errors;

  bool ended_by(int signal) const { return WIFSIGNALED(status) && WTERMSIG(status) == signal; }
  // The process came to its end, which a vCPU's thread may not bring about.
  bool passed() const {
    return (WIFEXITED(status) && WEXITSTATUS(status) == 0) ||
           (ended_by(SIGSYS) && report.denied_syscall().thread() == "vcpu" &&
            report.denied_syscall().number() == __NR_exit_group);
  }
};

std::string read_all(FdRef file) {
  std::string text(1 << 16, '\0');
  const ssize_t size = ::pread(file.number(), text.data(), text.size(), 0);
  text.resize(size > 0 ? static_cast<size_t>(size) : 0);
  return text;
}

// `act` in a process whose one thread is of this kind, which ends it by exit_group.
Outcome confined(ThreadKind kind, const std::function<void()>& act) {
  const Fd report = *Fd::memfd("report", 0);
  const Fd errors = *Fd::memfd("errors", 0);
  const pid_t child = ::fork();
  REQUIRE_GE(child, 0);
  if (child == 0) {
    ::dup2(errors.number(), STDERR_FILENO);
    // The test framework's own handlers.
    for (const int signal : {SIGABRT, SIGSEGV, SIGILL, SIGTERM}) std::signal(signal, SIG_DFL);
    ::mallopt(M_ARENA_MAX, 1);
    ::mallopt(M_MMAP_MAX, 0);
    const Result<Confinement> confinement = Confinement::create();
    if (!confinement) ::_exit(90);
    confinement->report_to(report.ref());
    if (!confinement->enter(ThreadKind::kStart)) ::_exit(91);
    if (kind != ThreadKind::kStart && !confinement->enter(kind)) ::_exit(92);
    act();
    ::_exit(0);
  }
  Outcome outcome;
  REQUIRE_EQ(::waitpid(child, &outcome.status, 0), child);
  REQUIRE(outcome.report.ParseFromString(read_all(report.ref())));
  outcome.errors = read_all(errors.ref());
  return outcome;
}

void check_denied(ThreadKind kind, uint32_t number, const std::function<void()>& act) {
  const std::string name = kThreadKindNames[static_cast<size_t>(kind)];
  const Outcome outcome = confined(kind, act);
  CAPTURE(name);
  CAPTURE(number);
  CHECK(outcome.ended_by(SIGSYS));
  CHECK_EQ(outcome.report.reason(), control::EXIT_REASON_SYSCALL_DENIED);
  CHECK_EQ(outcome.report.denied_syscall().thread(), name);
  CHECK_EQ(outcome.report.denied_syscall().number(), number);
  CHECK_EQ(outcome.errors, "mayfly-vmm error seccomp: the " + name +
                               " thread may not make system call " + std::to_string(number) + "\n");
}

TEST_CASE("every system call without a rule ends the process and is reported by its number") {
  constexpr uint32_t kLastNumber = 470;
  // uretprobe and uprobe: kernels that have them do not ask filters, and handle them
  // before anything else (kernel/seccomp.c, since Linux 6.14).
  constexpr uint32_t kNeverFiltered[] = {335, 336};
  for (const Policy& policy : make_policies()) {
    std::set<uint32_t> listed;
    for (const seccomp::Rule& rule : policy.rules) listed.insert(rule.number);
    listed.insert(std::begin(kNeverFiltered), std::end(kNeverFiltered));
    for (uint32_t number = 0; number < kLastNumber; ++number) {
      if (listed.contains(number)) continue;
      check_denied(policy.kind, number, [number] { ::syscall(number, 0, 0, 0, 0, 0, 0); });
    }
  }
}

TEST_CASE("calls with other arguments than their rules' are denied") {
  const long page = ::sysconf(_SC_PAGESIZE);
  for (const ThreadKind kind : kKinds) {
    check_denied(kind, __NR_mmap, [page] {
      ::mmap(nullptr, static_cast<size_t>(page), PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS,
             -1, 0);
    });
    check_denied(kind, __NR_mprotect, [page] {
      ::mprotect(std::bit_cast<void*>(std::bit_cast<uintptr_t>(&kKinds) & ~uintptr_t{4095}),
                 static_cast<size_t>(page), PROT_READ | PROT_EXEC);
    });
    check_denied(kind, __NR_clone, [] { ::syscall(__NR_clone, SIGCHLD, 0, 0, 0, 0); });
    check_denied(kind, __NR_tgkill, [] { ::syscall(__NR_tgkill, ::getpid(), ::gettid(), 9); });
    check_denied(kind, __NR_tgkill, [] { ::syscall(__NR_tgkill, 1, 1, SIGABRT); });
    check_denied(kind, __NR_rt_sigaction, [] { std::signal(SIGSYS, SIG_DFL); });
    check_denied(kind, __NR_ioctl, [] { ::syscall(__NR_ioctl, 0, 0x5401, 0); });
    check_denied(kind, __NR_futex, [] { ::syscall(__NR_futex, 0, 3, 0, 0, 0, 0); });
  }
  // A userfaultfd may be made during the start, and nothing may be done with one ever.
  for (const ThreadKind kind : kKinds) {
    check_denied(kind, __NR_ioctl,
                 [] { ::syscall(__NR_ioctl, 0, 0xc028aa03 /* UFFDIO_COPY */, 0); });
    if (kind == ThreadKind::kStart) continue;
    check_denied(kind, __NR_ioctl, [] { ::syscall(__NR_ioctl, 0, 0xaa00 /* a new one */, 0); });
  }
  check_denied(ThreadKind::kStart, __NR_fcntl, [] { ::fcntl(0, F_SETFL, O_ASYNC); });
  check_denied(ThreadKind::kStart, __NR_fcntl, [] { ::fcntl(0, F_DUPFD, 0); });
}

TEST_CASE("x32 and 32-bit calls kill, so nothing is reported") {
  for (const ThreadKind kind : kKinds) {
    const Outcome x32 = confined(kind, [] { ::syscall(0x4000'0000 | __NR_getpid); });
    CHECK(x32.ended_by(SIGSYS));
    CHECK_EQ(x32.report.reason(), control::EXIT_REASON_UNSPECIFIED);
    const Outcome legacy = confined(kind, [] {
      long number = 20;  // getpid of i386
      asm volatile("int $0x80" : "+a"(number) : : "memory");
    });
    // Where the kernel has no 32-bit calls, the gate faults instead.
    CHECK((legacy.ended_by(SIGSYS) || legacy.ended_by(SIGSEGV)));
  }
}

TEST_CASE("a thread that blocks SIGSYS is killed by the kernel") {
  const Outcome outcome = confined(ThreadKind::kVcpu, [] {
    sigset_t all;
    sigfillset(&all);
    ::sigprocmask(SIG_BLOCK, &all, nullptr);
    ::syscall(__NR_openat, -1, "/", 0);
  });
  CHECK(outcome.ended_by(SIGSYS));
}

TEST_CASE("what the monitor needs is executed") {
  CHECK(confined(ThreadKind::kStart, [] {
          const int event = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
          if (event < 0 || !set_nonblocking(FdRef(event), true)) ::_exit(1);
          signal_event(FdRef(event));
          uint64_t count = 0;
          if (::read(event, &count, sizeof(count)) != sizeof(count) || count != 1) ::_exit(2);
          if (::syscall(__NR_clone3, nullptr, 0) != -1 || errno != ENOSYS) ::_exit(3);
          // Upper halves that the kernel ignores.
          if (::syscall(__NR_fcntl, event, 0xffff'ffff'0000'0000 | F_GETFL, 0) < 0) ::_exit(4);
        }).passed());
}

TEST_CASE("threads start under the first policy and confine themselves further" *
          doctest::skip(kSanitized)) {
  const Outcome outcome = confined(ThreadKind::kStart, [] {
    std::thread thread([] {
      // What Confinement does, whose value is not at hand here.
      if (!seccomp::install(compiled::filters[static_cast<size_t>(ThreadKind::kVcpu)])) ::_exit(1);
      ::syscall(__NR_newfstatat, -1, "", nullptr, AT_EMPTY_PATH);
    });
    // join() needs a call that the monitor does not: it never joins.
    std::mutex lock;
    std::unique_lock held(lock);
    std::condition_variable().wait(held, [] { return false; });
  });
  CHECK(outcome.ended_by(SIGSYS));
  CHECK_EQ(outcome.report.denied_syscall().thread(), "vcpu");
  CHECK_EQ(outcome.report.denied_syscall().number(), __NR_newfstatat);
}

TEST_CASE("allocations of any size pass everywhere" * doctest::skip(kSanitized)) {
  for (const ThreadKind kind : kKinds) {
    const Outcome outcome = confined(kind, [] {
      for (size_t size = 16; size <= 16 << 20; size *= 4) {
        void* volatile block = std::malloc(size);
        if (block == nullptr) ::_exit(1);
        static_cast<volatile char*>(block)[size - 1] = 1;
        std::free(block);
      }
    });
    CHECK(outcome.passed());
  }
}

TEST_CASE("our own bugs end the process with their message, not as denials" *
          doctest::skip(kSanitized)) {
  struct Bug {
    const char* message;
    std::function<void()> make;
  };
  const Bug bugs[] = {
      {"BUG: CHECK(1 == 2) failed",
       [] {
         const int one = 1;
         if (one != 2) check_failed("1 == 2", std::source_location::current());
       }},
      {"stack smashing detected", [] { __stack_chk_fail(); }},
      {"free(): double free detected",
       [] {
         // Where the compiler cannot see it.
         void (*volatile release)(void*) = std::free;
         void* const block = std::malloc(64);
         release(block);
         release(block);
       }},
  };
  for (const ThreadKind kind : kKinds) {
    for (const Bug& bug : bugs) {
      const Outcome outcome = confined(kind, bug.make);
      INFO(outcome.errors);
      CHECK(outcome.ended_by(SIGABRT));
      CHECK_NE(outcome.errors.find(bug.message), std::string::npos);
      CHECK_EQ(outcome.report.reason(), control::EXIT_REASON_UNSPECIFIED);
    }
  }
}

TEST_CASE("a confinement that is off confines nothing") {
  const pid_t child = ::fork();
  REQUIRE_GE(child, 0);
  if (child == 0) {
    const Confinement off = Confinement::off();
    if (!off.enter(ThreadKind::kStart) || !off.enter(ThreadKind::kVcpu)) ::_exit(1);
    ::_exit(::socket(AF_UNIX, SOCK_STREAM, 0) >= 0 ? 0 : 2);
  }
  int status = -1;
  REQUIRE_EQ(::waitpid(child, &status, 0), child);
  CHECK_EQ(status, 0);
}

}  // namespace
}  // namespace mayfly::vmm
