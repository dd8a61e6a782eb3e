// SPDX-License-Identifier: Apache-2.0
//
// What a VM's memory is, and which of its pages are what. Nothing here changes the VM.
#include "daemon/memory_pages.h"
#include "daemon/vm.h"

#include <cerrno>

#include <fcntl.h>
#include <sys/stat.h>

namespace mayfly::daemon {

Result<MemoryView> Vm::memory_view() const {
  struct stat file = {};
  std::lock_guard lock(mutex_);
  if (!published_ || state_ == VmState::kStopped) {
    return std::unexpected(stopped_error("look at the memory of"));
  }
  if (::fstat(memory_.file.ref().number(), &file) != 0) {
    return fail_errno({Code::kInternal, "MEMORY_FILE"}, errno, "look at the memory's file");
  }
  return MemoryView{
      .vm_id = identity_.id,
      .incarnation = identity_.incarnation,
      .state = state_,
      .monitor_pid = body_->monitor().pid(),
      .memory_bytes = spec_.memory_mib << 20,
      .is_private = memory_.is_private,
      .is_sealed = memory_.is_sealed,
      .origin = restored_from_.empty() ? identity_.id : restored_from_,
      .file = {.device = file.st_dev, .inode = file.st_ino},
      .allocated_bytes = static_cast<uint64_t>(file.st_blocks) * 512,
      .block_bytes = static_cast<uint64_t>(file.st_blksize),
  };
}

Result<PageStretch> Vm::look_at_pages(const PageQuery& query, const Call& call) {
  TRY(wait_created(call));
  PageStretch stretch{
      .first_page = query.first_page, .page_count = query.page_count, .pages = {}, .state = {}};
  Fd whole;
  {
    std::unique_lock lock(mutex_);
    TRY(claim(lock, "look at the pages of", call));
    stretch.state = state_;
    if (!memory_.is_private) whole = TRY(Fd::duplicate(memory_.file.ref()));
    busy_ = true;
  }
  // It answers one such call at a time, so that what it says never fills its socket.
  ControlReply reply = TRY(
      body_->monitor().call([&](uint64_t id) { return encode_get_pages(id, query); }, call,
                            "look at pages", [this](const Result<ControlReply>&) { release(); }));
  if (!reply.pages) {
    return fail({Code::kUnavailable, "MONITOR_REPLY"},
                "look at pages: the monitor did not say what they are");
  }
  stretch.pages = *std::move(reply.pages);
  TRY(check_pages(stretch.pages, query));
  // All that is in a memory that nobody else has was written since it was made.
  if (whole.valid()) {
    stretch.pages.own = TRY(allocated_pages(whole.ref(), query.first_page, query.page_count));
  }
  return stretch;
}

Result<Fd> Vm::open_memory(const Call& call) {
  TRY(wait_created(call));
  Stopwatch stopwatch;
  TRY(wait_memory(call, stopwatch));
  std::lock_guard lock(mutex_);
  if (state_ == VmState::kStopped) return std::unexpected(stopped_error("export the memory of"));
  return reopen_for_reading(memory_.file.ref());
}

Result<Fd> reopen_for_reading(FdRef file) {
  return Fd::open(format("/proc/self/fd/%d", file.number()).c_str(), O_RDONLY);
}

}  // namespace mayfly::daemon
