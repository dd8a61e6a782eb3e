// SPDX-License-Identifier: Apache-2.0
//
// A VM whose memory comes as it runs (docs/lazy-memory.md).
#include "base/log.h"
#include "daemon/unix_socket_sys.h"
#include "daemon/vm.h"

#include <array>
#include <cerrno>

#include <fcntl.h>
#include <sys/socket.h>

namespace mayfly::daemon {

namespace {

Result<Fd> open_userfault_device(const std::string& path) {
  auto device = Fd::open(path.c_str(), O_RDWR);
  if (device) return device;
  return fail_errno({Code::kFailedPrecondition, "USERFAULT_MISSING"}, device.error().os_errno(),
                    "lazy memory: cannot open %s, which Linux has from 6.1 on (`mayfly doctor` "
                    "says more); restore without it",
                    path.c_str());
}

}  // namespace

Result<> Vm::map_memory(FdRef memory, MemorySource& source, const Call& call) {
  const Fd device = TRY(open_userfault_device(environment_.userfault_path));
  auto [ours, monitors] = TRY(Fd::socket_pair(SOCK_SEQPACKET));
  const uint64_t memory_bytes = spec_.memory_mib << 20;
  const MapMemoryParams params{.memory = memory,
                               .memory_bytes = memory_bytes,
                               .userfault_device = device.ref(),
                               .guard = monitors.ref()};
  ControlReply reply = TRY(body_->monitor().call(
      [&](uint64_t id) { return encode_map_memory(id, params); }, call, "map the memory"));
  TRY(check_regions(reply.regions, memory_bytes));
  // It was sent before the reply.
  Userfault userfault = TRY(Userfault::adopt(TRY(receive_descriptor(ours.ref()))));
  guard_ = std::move(ours);
  auto fill = TRY(source.begin(
      {.userfault = std::move(userfault),
       .regions = std::move(reply.regions),
       .file = memory,
       .size_bytes = memory_bytes},
      [this](Result<> result) { on_memory_end(std::move(result)); }, call));
  std::lock_guard lock(mutex_);
  fill_ = std::move(fill);
  return {};
}

void Vm::on_memory_end(Result<> result) {
  if (!result && result.error().reason() == "VM_GONE") return;
  {
    std::lock_guard lock(mutex_);
    if (result) {
      is_memory_missing_ = false;
    } else {
      memory_failure_ = result.error();
    }
  }
  if (result) {
    // One that does not take it ends some day, and is told of then.
    constexpr std::array<std::byte, 1> kComplete = {};
    (void)send_packet(guard_.ref(), kComplete, {});
  } else {
    log(LogLevel::kError, "vm %s: its memory: %s; killing it", identity_.id.c_str(),
        result.error().describe().c_str());
    // Before the source lets go of what its vCPUs wait for.
    body_->monitor().kill();
  }
  changed_.notify_all();
}

void Vm::end_fill() {
  std::unique_ptr<MemoryFill> fill;  // Destroyed without the lock, which its hook takes.
  {
    std::lock_guard lock(mutex_);
    fill = std::move(fill_);
  }
}

}  // namespace mayfly::daemon
