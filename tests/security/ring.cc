// SPDX-License-Identifier: Apache-2.0
#include "tests/security/ring.h"

#include <algorithm>
#include <atomic>
#include <cerrno>

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace mayfly::escape {
namespace {

constexpr unsigned kEntries = 256;  // as vmm/monitor.cc
constexpr int kDescriptorsSearched = 8;
constexpr uint64_t kOurToken = 0xe5ca'0000'0000'0000;

Result<Fd> make(io_uring_params& params) {
  Fd ring(static_cast<int>(::syscall(SYS_io_uring_setup, kEntries, &params)));
  if (ring.valid()) return ring;
  return fail_errno({Code::kFailedPrecondition, "IO_URING"}, errno, "io_uring_setup");
}

// SAFETY: of this file: offsets that the kernel gave for a ring of this size, into its mapping.
std::atomic_ref<uint32_t> word(uint8_t* ring, uint32_t offset) {
  return std::atomic_ref<uint32_t>(*reinterpret_cast<uint32_t*>(ring + offset));
}

}  // namespace

Result<std::unique_ptr<Ring>> Ring::find(int first) {
  // The layout follows from the number of entries alone.
  io_uring_params layout = {};
  TRY(make(layout));
  std::unique_ptr<Ring> ring(new Ring());
  for (int descriptor = first; descriptor < first + kDescriptorsSearched; ++descriptor) {
    if (ring->map(descriptor, layout)) return ring;
  }
  return fail({Code::kInternal, "NO_RING"}, "no ring from descriptor %d on", first);
}

Result<std::unique_ptr<Ring>> Ring::make_loose() {
  io_uring_params layout = {};
  Fd made = TRY(make(layout));
  std::unique_ptr<Ring> ring(new Ring());
  if (!ring->map(made.number(), layout)) {
    return fail_errno({Code::kInternal, "MAP_RING"}, errno, "map a ring");
  }
  made.release();
  return ring;
}

bool Ring::map(int descriptor, const io_uring_params& layout) {
  const size_t ring_size =
      std::max<size_t>(layout.sq_off.array + layout.sq_entries * sizeof(uint32_t),
                       layout.cq_off.cqes + layout.cq_entries * sizeof(io_uring_cqe));
  void* ring = ::mmap(nullptr, ring_size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor,
                      IORING_OFF_SQ_RING);
  if (ring == MAP_FAILED) return false;
  void* entries = ::mmap(nullptr, layout.sq_entries * sizeof(io_uring_sqe), PROT_READ | PROT_WRITE,
                         MAP_SHARED, descriptor, IORING_OFF_SQES);
  if (entries == MAP_FAILED) return false;
  descriptor_ = descriptor;
  ring_ = static_cast<uint8_t*>(ring);
  entries_ = static_cast<io_uring_sqe*>(entries);
  layout_ = layout;
  return true;
}

int32_t Ring::submit(const io_uring_sqe& operation) {
  auto tail = word(ring_, layout_.sq_off.tail);
  const uint32_t at = tail.load(std::memory_order_relaxed);
  const uint32_t slot = at & (layout_.sq_entries - 1);
  entries_[slot] = operation;
  entries_[slot].user_data = kOurToken;
  word(ring_, layout_.sq_off.array + slot * 4).store(slot, std::memory_order_relaxed);
  tail.store(at + 1, std::memory_order_release);
  // A second wait where a completion of the loop's own came first.
  for (unsigned to_submit : {1u, 0u}) {
    if (::syscall(SYS_io_uring_enter, descriptor_, to_submit, 1, IORING_ENTER_GETEVENTS, nullptr,
                  0) < 0) {
      return -errno;
    }
    auto head = word(ring_, layout_.cq_off.head);
    const auto* done = reinterpret_cast<const io_uring_cqe*>(ring_ + layout_.cq_off.cqes);
    for (uint32_t next = head.load(); next != word(ring_, layout_.cq_off.tail).load(); ++next) {
      const io_uring_cqe& entry = done[next & (layout_.cq_entries - 1)];
      head.store(next + 1);
      if (entry.user_data == kOurToken) return entry.res;
    }
  }
  return -EIO;
}

int32_t Ring::try_submit(io_uring_sqe operation) {
  const int32_t plain = submit(operation);
  if (plain != -EACCES) return plain;
  operation.flags |= IOSQE_FIXED_FILE;
  return submit(operation);
}

int32_t Ring::register_with(unsigned operation, const void* argument, unsigned count) const {
  const long result = ::syscall(SYS_io_uring_register, descriptor_, operation, argument, count);
  return result < 0 ? -errno : static_cast<int32_t>(result);
}

}  // namespace mayfly::escape
