// SPDX-License-Identifier: Apache-2.0
//
// Runs the probe in a mayfly-vmm without a daemon and prints what came of it. See README.md.
#include "tests/probe/launch_sys.h"

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include <sys/wait.h>

namespace {

constexpr const char* kUsage =
    "usage: run_probe --monitor PATH --kernel PATH [--disk PATH] [--read-only-disk PATH] [--vsock "
    "CID]\n"
    "                 [--timeout-ms N] COMMAND-LINE\n"
    "\n"
    "Prints the console, then how the VM ended. Exit code: 0 after a guest's power-off, 1 after "
    "anything\n"
    "else, 2 where the launch failed.\n";

constexpr int kGuestPowerOff = 1;  // control.proto, ExitReason

bool parse(int argc, char** argv, mayfly::probe::LaunchOptions& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string_view word = argv[i];
    const bool last = i + 1 == argc;
    if (last && !word.starts_with("--")) {
      options.command_line = word;
      return true;
    }
    if (last) return false;
    const char* value = argv[++i];
    if (word == "--monitor") {
      options.monitor = value;
    } else if (word == "--kernel") {
      options.kernel = value;
    } else if (word == "--disk" || word == "--read-only-disk") {
      options.disks.push_back({value, word == "--read-only-disk"});
    } else if (word == "--vsock") {
      options.guest_cid = std::strtoull(value, nullptr, 10);
    } else if (word == "--timeout-ms") {
      options.timeout_ms = std::strtoull(value, nullptr, 10);
    } else {
      return false;
    }
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  mayfly::probe::LaunchOptions options;
  if (!parse(argc, argv, options) || options.monitor.empty() || options.kernel.empty()) {
    std::fputs(kUsage, stderr);
    return 2;
  }
  const auto result = mayfly::probe::launch(options);
  if (!result) {
    std::fprintf(stderr, "run_probe: %s\n", result.error().describe().c_str());
    return 2;
  }
  std::fwrite(result->console.data(), 1, result->console.size(), stdout);
  if (!result->refusal.empty()) std::printf("refused: %s\n", result->refusal.c_str());
  const auto us = [](uint64_t ns) { return static_cast<unsigned long long>(ns / 1000); };
  std::printf(
      "%s%s%s; main %llu us, running %llu us, ended %llu us, reaped %llu us, cpu %llu us; "
      "exits io %llu mmio %llu; status 0x%x\n",
      result->exit_reason_name.empty() ? "no exit report" : result->exit_reason_name.c_str(),
      result->detail.empty() ? "" : ": ", result->detail.c_str(), us(result->main_ns),
      us(result->running_ns), us(result->ended_ns), us(result->wall_ns), us(result->cpu_ns),
      static_cast<unsigned long long>(result->exits_io),
      static_cast<unsigned long long>(result->exits_mmio),
      static_cast<unsigned>(result->wait_status));
  return result->exit_reason == kGuestPowerOff ? 0 : 1;
}
