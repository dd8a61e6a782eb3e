// SPDX-License-Identifier: Apache-2.0
#include "base/seccomp/filter_sys.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::seccomp {
namespace {

// An x32 call, whichever: to an x86-64 filter those are another architecture's.
constexpr long kKillingCall = 0x4000'0000;

// SYS_SECCOMP of the kernel's siginfo.h, which glibc 2.36 lacks.
constexpr int kDeniedCode = 1;

// Written once by on_denial(), before the first filter.
DenialHandler denial_handler = nullptr;

void on_sigsys(int, siginfo_t* info, void*) {
  // Anyone with the right to may send the signal: then no call was denied.
  if (info->si_code == kDeniedCode) {
    denial_handler(static_cast<uint16_t>(info->si_errno), static_cast<uint32_t>(info->si_syscall));
  }
  // SAFETY: no pointer is passed, and no filter lets it return.
  ::syscall(kKillingCall);
  __builtin_trap();
}

}  // namespace

Result<> install(const Filter& filter) {
  std::array<sock_filter, Filter::kMaxInstructions> program;
  CHECK(filter.program.size() <= program.size());
  std::ranges::copy(filter.program, program.begin());
  for (const uint16_t at : filter.own_pid_at) program[at].k = static_cast<uint32_t>(::getpid());
  const sock_fprog request = {
      .len = static_cast<unsigned short>(filter.program.size()),
      .filter = program.data(),
  };
  // SAFETY: the kernel copies the program, of which `len` instructions were written above.
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &request) != 0) {
    return fail_errno({Code::kFailedPrecondition, "SECCOMP"}, errno,
                      "seccomp: install a filter of %zu instructions", filter.program.size());
  }
  return {};
}

Result<> on_denial(DenialHandler handler) {
  denial_handler = handler;
  struct sigaction action = {};
  action.sa_sigaction = on_sigsys;
  action.sa_flags = SA_SIGINFO;
  sigfillset(&action.sa_mask);
  if (::sigaction(SIGSYS, &action, nullptr) != 0) {
    return fail_errno({Code::kInternal, "SIGSYS"}, errno, "handle SIGSYS");
  }
  return {};
}

}  // namespace mayfly::seccomp
