// SPDX-License-Identifier: Apache-2.0
//
// A program in the monitor's place, under the monitor's jail and filters, that wants out. See
// README.md.
#include "tests/security/escapee.h"

#include "base/event/loop.h"
#include "base/fd.h"
#include "base/log.h"
#include "vmm/machine/pagemap.h"

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include <fcntl.h>
#include <linux/kvm.h>
#include <malloc.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

namespace {

using namespace mayfly;
using namespace mayfly::escape;

constexpr const char* kUsage =
    "usage: escapee --policy=none|start|loop|vcpu --attempt=NAME [--loose]\n"
    "       escapee --control-fd=N   in place of a mayfly-vmm, see README.md\n"
    "       escapee --wait           until it is killed\n"
    "       escapee --list           the attempts\n\n"
    "Exit code: 0 escaped, 10 refused, 11 this host lacks what it needs; SIGSYS: a filter denied a "
    "call.\n"
    "--loose: a ring without restrictions, as a proof that the attempts are real.\n";

// As vmm/main.cc, so that the filters fit.
void keep_malloc_to_one_heap() {
  ::mallopt(M_ARENA_MAX, 1);
  ::mallopt(M_MMAP_MAX, 0);
}

Result<> make_machine(World& world) {
  world.vm = ::ioctl(kKvm, KVM_CREATE_VM, 0);
  if (world.vm >= 0) world.vcpu = ::ioctl(world.vm, KVM_CREATE_VCPU, 0);
  if (world.vcpu >= 0) return {};
  return fail_errno({Code::kFailedPrecondition, "KVM"}, errno, "make a machine");
}

bool belongs_to(std::span<const Attempt> group, const Attempt& attempt) {
  return &attempt >= group.data() && &attempt < group.data() + group.size();
}

Result<int> run(Place place, const Attempt& attempt, bool is_loose, Result<Fd> pagemap) {
  World world;
  world.pagemap = TRY(std::move(pagemap));
  world.self = ::getpid();
  TRY(pread_exact(FdRef(kTargets), std::as_writable_bytes(std::span(&world.targets, 1)), 0));
  // Made and restricted by the monitor's own code.
  const auto loop = TRY(Loop::create({}));
  world.ring = TRY(is_loose ? Ring::make_loose() : Ring::find(kInheritedEnd));
  if (belongs_to(kvm_attempts(), attempt)) TRY(make_machine(world));
  if (place != Place::kUnfiltered) {
    const vmm::Confinement confinement = TRY(vmm::Confinement::create());
    TRY(take_place(confinement, place));
  }
  return make_attempt(place, attempt, world);
}

void list() {
  for (const auto& group : all_attempts()) {
    for (const Attempt& attempt : group) std::printf("%-28s %s\n", attempt.name, attempt.gives);
  }
}

int usage() {
  std::fputs(kUsage, stderr);
  return kUsageCode;
}

[[noreturn]] void wait_for_ever() {
  ::prctl(PR_SET_DUMPABLE, 0);
  while (true) ::pause();
}

}  // namespace

int main(int argc, char** argv) {
  log_init("escapee", LogLevel::kInfo);
  std::signal(SIGPIPE, SIG_IGN);
  keep_malloc_to_one_heap();
  std::string_view policy;
  const Attempt* attempt = nullptr;
  bool is_loose = false;
  int proc_self = -1;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--list") return list(), 0;
    if (argument == "--succeed") return kEscapedCode;
    if (argument == "--wait") wait_for_ever();
    if (argument.starts_with("--control-fd=")) {
      ::prctl(PR_SET_DUMPABLE, 0);
      run_as_monitor(std::atoi(argv[i] + std::string_view("--control-fd=").size()));
    }
    if (argument == "--loose") {
      is_loose = true;
    } else if (argument.starts_with("--proc-self-fd=")) {
      proc_self = std::atoi(argv[i] + std::string_view("--proc-self-fd=").size());
    } else if (argument.starts_with("--policy=")) {
      policy = argument.substr(std::string_view("--policy=").size());
    } else if (argument.starts_with("--attempt=")) {
      attempt = find_attempt(argv[i] + std::string_view("--attempt=").size());
    } else {
      return usage();
    }
  }
  const Result<Place> place = parse_place(policy);
  if (!place || attempt == nullptr) return usage();
  // In the monitor's order, and by its own code.
  Result<Fd> pagemap = open_pagemap(Fd(proc_self));
  ::prctl(PR_SET_DUMPABLE, 0);
  const Result<int> code = run(*place, *attempt, is_loose, std::move(pagemap));
  if (!code) log(LogLevel::kError, "%s", code.error().describe().c_str());
  ::_exit(code.value_or(kBrokenCode));
}
