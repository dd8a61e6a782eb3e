// SPDX-License-Identifier: Apache-2.0
//
// Where the pages that a snapshot writes come from.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "base/memory/guest_memory.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace mayfly::snapshot {

/// Guest RAM by offset (that of its memfd). Nobody may write it meanwhile.
class RamSource {
 public:
  /// Fills `out` from RAM at `offset`; the range is inside RAM.
  virtual Result<> read(uint64_t offset, std::span<std::byte> out) = 0;
  /// Everything from `offset` up to what is returned is zero, which the source can tell without
  /// reading it; at most the size of RAM.
  virtual Result<uint64_t> next_data(uint64_t offset) { return offset; }

 protected:
  ~RamSource() = default;
};

/// RAM as a memfd whose writers are gone, or paused. Knows what was never touched.
class MemfdRam final : public RamSource {
 public:
  MemfdRam(FdRef memfd, uint64_t size_bytes) : memfd_(memfd), size_(size_bytes) {}
  Result<> read(uint64_t offset, std::span<std::byte> out) override;
  Result<uint64_t> next_data(uint64_t offset) override;

 private:
  FdRef memfd_;
  uint64_t size_;
};

/// RAM as the monitor has it mapped, which is the guest's own where the memfd is a template that
/// the guest has left behind. `memory` outlives this.
class MappedRam final : public RamSource {
 public:
  explicit MappedRam(const GuestMemory& memory) : memory_(memory) {}
  Result<> read(uint64_t offset, std::span<std::byte> out) override;

 private:
  const GuestMemory& memory_;
};

/// Where the file has data at or after `offset`; `end` where there is none before it.
Result<uint64_t> next_data_in(FdRef file, uint64_t offset, uint64_t end);

}  // namespace mayfly::snapshot
