// SPDX-License-Identifier: Apache-2.0
//
// mayfly-vmm: one virtual machine's monitor. Started by mayflyd, with a listening control socket as
// its only input; everything else arrives through that as descriptors.
#include "base/clock.h"
#include "base/fd.h"
#include "base/log.h"
#include "vmm/kvm/vcpu_sys.h"
#include "vmm/monitor.h"

#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <string_view>

#include <pthread.h>
#include <unistd.h>

namespace {

constexpr std::string_view kControlFlag = "--control-fd=";
constexpr int kUsageError = 2;

constexpr const char* kUsage =
    "mayfly-vmm: the monitor of one virtual machine. mayflyd starts it; to run a VM, use\n"
    "  mayfly run -- COMMAND\n\n"
    "usage: mayfly-vmm --control-fd=N   N: an inherited listening SOCK_SEQPACKET socket\n";

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

bool parse_descriptor(std::string_view text, int& descriptor) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), descriptor);
  return error == std::errc() && end == text.data() + text.size() && descriptor >= 0;
}

}  // namespace

int main(int argc, char** argv) {
  using namespace mayfly;
  const uint64_t main_ns = monotonic_ns();
  log_init("mayfly-vmm", LogLevel::kInfo);
  int control = -1;
  const std::string_view flag = argc == 2 ? argv[1] : "";
  if (!flag.starts_with(kControlFlag) ||
      !parse_descriptor(flag.substr(kControlFlag.size()), control)) {
    std::fputs(kUsage, stderr);
    return kUsageError;
  }
  std::signal(SIGPIPE, SIG_IGN);
  kvm::install_kick_signal();
  keep_thread_stacks_small();

  auto monitor = vmm::Monitor::create(Fd(control), main_ns);
  const Result<> result = monitor ? (*monitor)->run() : std::unexpected(monitor.error());
  if (!result) log(LogLevel::kError, "%s", result.error().describe().c_str());
  // The threads and mappings end with the process; taking them down one by one would only be
  // slower.
  ::_exit(result ? 0 : 1);
}
