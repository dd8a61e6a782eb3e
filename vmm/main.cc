// SPDX-License-Identifier: Apache-2.0
//
// mayfly-vmm: one virtual machine's monitor. Started by mayflyd, with a listening control socket as
// its only input; everything else arrives through that as descriptors.
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "vmm/kvm/vcpu_sys.h"
#include "vmm/machine/pagemap.h"
#include "vmm/monitor.h"
#include "vmm/seccomp/confinement.h"

#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include <malloc.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <unistd.h>

// libstdc++'s own prints the exception's demangled name: 70 KiB of program for what never happens
// in a program that is built without exceptions.
void __gnu_cxx::__verbose_terminate_handler() { std::abort(); }

namespace {

constexpr std::string_view kControlFlag = "--control-fd=";
constexpr std::string_view kProcSelfFlag = "--proc-self-fd=";
constexpr std::string_view kSeccompOffFlag = "--seccomp=off";
constexpr int kUsageError = 2;

constexpr const char* kUsage =
    "mayfly-vmm: the monitor of one virtual machine. mayflyd starts it; to run a VM, use\n"
    "  mayfly run -- COMMAND\n\n"
    "usage: mayfly-vmm --control-fd=N [--proc-self-fd=N] [--seccomp=off]\n"
    "  --control-fd=N    an inherited listening SOCK_SEQPACKET socket\n"
    "  --proc-self-fd=N  an inherited O_PATH descriptor of /proc/self; without it, that by name\n"
    "  --seccomp=off     for debugging: the monitor may make any system call\n";

// Below the 2 MiB of a huge page: where the host gives those to everyone, glibc's own stacks of 8
// MiB would each begin with one.
constexpr size_t kThreadStackBytes = 512 * 1024;

void keep_thread_stacks_small() {
  pthread_attr_t attributes;
  if (::pthread_attr_init(&attributes) != 0) return;
  if (::pthread_attr_setstacksize(&attributes, kThreadStackBytes) == 0) {
    ::pthread_setattr_default_np(&attributes);
  }
  ::pthread_attr_destroy(&attributes);
}

// One arena on brk() for all threads: they allocate rarely, an arena for each would cost memory,
// and mapping arenas and large blocks would be three more kinds of calls for their filters to let
// pass.
void keep_malloc_to_one_heap() {
  ::mallopt(M_ARENA_MAX, 1);
  ::mallopt(M_MMAP_MAX, 0);
}

struct Flags {
  int control = -1;
  int proc_self = -1;
  bool is_confined = true;
};

bool parse_descriptor(std::string_view text, int& descriptor) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), descriptor);
  return error == std::errc() && end == text.data() + text.size() && descriptor >= 0;
}

std::optional<Flags> parse_flags(std::span<const char* const> arguments) {
  Flags flags;
  for (const std::string_view argument : arguments) {
    if (argument == kSeccompOffFlag) {
      flags.is_confined = false;
    } else if (argument.starts_with(kProcSelfFlag)) {
      if (!parse_descriptor(argument.substr(kProcSelfFlag.size()), flags.proc_self)) {
        return std::nullopt;
      }
    } else if (!argument.starts_with(kControlFlag) ||
               !parse_descriptor(argument.substr(kControlFlag.size()), flags.control)) {
      return std::nullopt;
    }
  }
  return flags.control >= 0 ? std::optional(flags) : std::nullopt;
}

// The one file that a monitor opens, before anything that is hostile can be read. Without it all is
// well until somebody asks which pages the VM has changed.
mayfly::Fd open_own_pagemap(const Flags& flags) {
  auto pagemap = mayfly::open_pagemap(mayfly::Fd(flags.proc_self));
  return pagemap ? *std::move(pagemap) : mayfly::Fd();
}

// Makes the monitor, and from then on this thread is confined.
mayfly::Result<std::unique_ptr<mayfly::vmm::Monitor>> make_monitor(const Flags& flags,
                                                                   mayfly::Fd pagemap,
                                                                   uint64_t main_ns) {
  using namespace mayfly;
  vmm::Confinement confinement = vmm::Confinement::off();
  if (flags.is_confined) {
    confinement = TRY(vmm::Confinement::create());
  } else {
    log(LogLevel::kWarning, "--seccomp=off: this monitor is NOT CONFINED, it may make any call");
  }
  return vmm::Monitor::create(Fd(flags.control), std::move(pagemap), confinement, main_ns);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace mayfly;
  const uint64_t main_ns = monotonic_ns();
  log_init("mayfly-vmm", LogLevel::kInfo);
  const auto arguments = std::span<const char* const>(argv, static_cast<size_t>(argc));
  const std::optional<Flags> flags = parse_flags(arguments.subspan(1));
  if (!flags) {
    std::fputs(kUsage, stderr);
    return kUsageError;
  }
  Fd pagemap = open_own_pagemap(*flags);
  // Nobody with the monitor's own user id may trace it or read its memory. Exec resets this, so the
  // jailer cannot do it.
  ::prctl(PR_SET_DUMPABLE, 0);
  std::signal(SIGPIPE, SIG_IGN);
  kvm::install_kick_signal();
  keep_thread_stacks_small();
  keep_malloc_to_one_heap();

  const auto monitor = make_monitor(*flags, std::move(pagemap), main_ns);
  const Result<> result = monitor ? (*monitor)->run() : std::unexpected(monitor.error());
  if (!result) log(LogLevel::kError, "%s", result.error().describe().c_str());
  // The threads and mappings end with the process: taking them down one by one would be slower, and
  // need more calls than the filters let pass.
  ::_exit(result ? 0 : 1);
}
