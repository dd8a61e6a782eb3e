// SPDX-License-Identifier: Apache-2.0
#include "base/console_ring_sys.h"

#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include <sys/mman.h>

namespace mayfly {

Result<uint64_t> console_ring_capacity(FdRef ring) {
  const uint64_t size = TRY(file_size(ring));
  const uint64_t capacity = size < kConsoleRingHeaderSize ? 0 : size - kConsoleRingHeaderSize;
  if (!std::has_single_bit(capacity) || capacity < kConsoleRingMinCapacity ||
      capacity > kConsoleRingMaxCapacity) {
    return fail({Code::kInvalidArgument, "CONSOLE_RING_SIZE"},
                "console ring: a file of %llu bytes is not 4096 and a power of two from 4 KiB to "
                "16 MiB",
                static_cast<unsigned long long>(size));
  }
  return capacity;
}

Result<ConsoleRingMapping> ConsoleRingMapping::create(FdRef ring) {
  const uint64_t capacity = TRY(console_ring_capacity(ring));
  // SAFETY: a new mapping of the whole file; the daemon that made the file does not shrink it.
  void* base = ::mmap(nullptr, kConsoleRingHeaderSize + capacity, PROT_READ | PROT_WRITE,
                      MAP_SHARED, ring.number(), 0);
  if (base == MAP_FAILED) {
    return fail_errno({Code::kInvalidArgument, "CONSOLE_RING_MAP"}, errno,
                      "console ring: map %llu bytes shared, readable and writable",
                      static_cast<unsigned long long>(kConsoleRingHeaderSize + capacity));
  }
  ConsoleRingMapping mapping(static_cast<std::byte*>(base), capacity);
  mapping.publish(0);
  mapping.reserve(0);
  mapping.header().magic = kConsoleRingMagic;
  mapping.header().version = kConsoleRingVersion;
  mapping.header().capacity = capacity;
  return mapping;
}

ConsoleRingMapping::ConsoleRingMapping(ConsoleRingMapping&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)), capacity_(other.capacity_) {}

ConsoleRingMapping::~ConsoleRingMapping() {
  // SAFETY: our own mapping, whose pointers never leave this class.
  if (base_ != nullptr) ::munmap(base_, kConsoleRingHeaderSize + capacity_);
}

ConsoleRingHeader& ConsoleRingMapping::header() {
  CHECK(base_ != nullptr);
  // SAFETY: the mapping starts on a page and is longer than the header, a plain struct.
  return *reinterpret_cast<ConsoleRingHeader*>(base_);
}

void ConsoleRingMapping::reserve(uint64_t total) {
  std::atomic_ref(header().reserved).store(total, std::memory_order_relaxed);
  // The bytes that follow become visible after the reservation.
  std::atomic_thread_fence(std::memory_order_seq_cst);
}

void ConsoleRingMapping::copy_in(uint64_t position, std::span<const std::byte> bytes) {
  CHECK(bytes.size() <= capacity_ && position <= capacity_ - bytes.size());
  if (bytes.empty()) return;
  // SAFETY: in the ring by the CHECK, and the ring is in the mapping.
  std::memcpy(base_ + kConsoleRingHeaderSize + position, bytes.data(), bytes.size());
}

void ConsoleRingMapping::publish(uint64_t total) {
  std::atomic_ref(header().written).store(total, std::memory_order_release);
}

}  // namespace mayfly
