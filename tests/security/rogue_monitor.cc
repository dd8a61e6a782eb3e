// SPDX-License-Identifier: Apache-2.0
//
// The words of the guest's command line: escapee.policy=none|start|loop|vcpu and one of
// escapee.attempt=NAME, escapee.abuse=memory|processes|threads|disk. It is done when the daemon
// asks for a pause.
#include "base/event/loop.h"
#include "base/log.h"
#include "tests/security/escapee.h"
#include "vmm/control/request.h"
#include "vmm/control/server.h"

#include <cerrno>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::escape {
namespace {

std::string word_after(std::string_view line, std::string_view key) {
  const size_t at = line.find(key);
  if (at == std::string_view::npos) return {};
  const std::string_view rest = line.substr(at + key.size());
  return std::string(rest.substr(0, rest.find(' ')));
}

// Each takes what it can get, and goes on when there is no more.

[[noreturn]] void take_memory() {
  constexpr size_t kStep = size_t{4} << 20;
  while (true) {
    void* more = ::mmap(nullptr, kStep, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (more == MAP_FAILED) ::usleep(1000);
  }
}

[[noreturn]] void take_processes() {
  while (true) {
    // Each child does the same.
    if (::syscall(SYS_fork) < 0) ::usleep(1000);
  }
}

char thread_stacks[1 << 20];

int spin(void*) {
  while (true) __builtin_ia32_pause();
}

[[noreturn]] void take_threads() {
  constexpr int kFlags =
      CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
  constexpr size_t kStack = 4096;
  size_t top = kStack;
  while (true) {
    // They touch nothing of their stacks, so that sharing some does not matter.
    if (::clone(spin, thread_stacks + top, kFlags, nullptr) < 0) ::usleep(1000);
    top = top + kStack < sizeof(thread_stacks) ? top + kStack : kStack;
  }
}

[[noreturn]] void flood_disk(const MachineConfig& config) {
  static char block[1 << 20];
  if (config.disks.empty()) ::_exit(kUsageCode);
  const int disk = config.disks[0].file.number();
  for (off_t offset = 0;; offset += sizeof(block)) {
    constexpr off_t kDiskBytes = 32 << 20;
    if (::pwrite(disk, block, sizeof(block), offset % kDiskBytes) < 0) ::usleep(1000);
    ::fdatasync(disk);
  }
}

void abuse(const std::string& what, const MachineConfig& config) {
  if (what == "memory") take_memory();
  if (what == "processes") take_processes();
  if (what == "threads") take_threads();
  if (what == "disk") flood_disk(config);
}

class RogueMonitor {
 public:
  Result<> run(int control) {
    loop_ = TRY(Loop::create({}));
    server_ = TRY(vmm::Server::create(*loop_, Fd(control)));
    while (true) {
      while (auto request = server_->next()) TRY(answer(*request));
      if (server_->take_disconnect()) return {};
      TRY(loop_->run_once());
    }
  }

 private:
  Result<> answer(vmm::Request& request) {
    vmm::Answer reply = std::monostate();
    if (auto* call = std::get_if<vmm::Configure>(&request.call)) {
      TRY(configure(std::move(call->machine)));
      reply = Phases{};
    } else if (std::holds_alternative<vmm::GetStats>(request.call)) {
      reply = MachineStats{};
    } else if (std::holds_alternative<vmm::Stop>(request.call)) {
      ::_exit(0);
    }
    if (!std::holds_alternative<vmm::Pause>(request.call)) {
      server_->reply(request.id, reply);
      return {};
    }
    const std::string what = word_after(config_->command_line, "escapee.abuse=");
    if (!what.empty()) {
      server_->reply(request.id, reply);
      abuse(what, *config_);
    }
    ::_exit(make_attempt(place_, *attempt_, world_));
  }

  Result<> configure(MachineConfig config) {
    config_ = std::move(config);
    const std::string_view line = config_->command_line;
    place_ = TRY(parse_place(word_after(line, "escapee.policy=")));
    attempt_ = find_attempt(word_after(line, "escapee.attempt=").c_str());
    if (attempt_ == nullptr && word_after(line, "escapee.abuse=").empty()) {
      return fail({Code::kInvalidArgument, "ATTEMPT"}, "the command line names no attempt");
    }
    if (place_ == Place::kUnfiltered) return {};
    const vmm::Confinement confinement = TRY(vmm::Confinement::create());
    confinement.report_to(config_->exit_report.ref());
    return take_place(confinement, place_);
  }

  std::unique_ptr<Loop> loop_;
  std::unique_ptr<vmm::Server> server_;
  std::optional<MachineConfig> config_;
  Place place_ = Place::kUnfiltered;
  const Attempt* attempt_ = nullptr;
  World world_;
};

}  // namespace

void run_as_monitor(int control) {
  RogueMonitor monitor;
  const Result<> result = monitor.run(control);
  if (!result) log(LogLevel::kError, "%s", result.error().describe().c_str());
  ::_exit(result ? kEscapedCode : kBrokenCode);
}

}  // namespace mayfly::escape
