// SPDX-License-Identifier: Apache-2.0
//
// The memory of a saved VM, as snapshot::write_memory() reads it: what was left behind, with the
// pages over it that its monitor copied. One thread.
#pragma once

#include "base/error.h"
#include "daemon/call.h"
#include "daemon/vm_memory.h"
#include "snapshot/ram_source.h"

#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

namespace mayfly::daemon {

class SavedMemory final : public snapshot::RamSource {
 public:
  /// Told of the offset up to which the memory was asked for.
  using Hook = std::function<void(uint64_t offset)>;

  /// Borrows both. UNAVAILABLE SAVED_LAYER where the layer is not what the monitor was to write.
  static Result<SavedMemory> open(const SavedVm& saved, uint64_t memory_bytes, const Call& call,
                                  Hook on_read = nullptr);

  /// The layer's, a bit for each page; empty without one.
  std::span<const uint64_t> changed_pages() const { return changed_; }

  // RamSource. Fails once the caller has given up.
  Result<> read(uint64_t offset, std::span<std::byte> out) override;
  Result<uint64_t> next_data(uint64_t offset) override;

 private:
  SavedMemory(const SavedVm& saved, uint64_t memory_bytes, const Call& call, Hook on_read)
      : saved_(saved), memory_bytes_(memory_bytes), call_(call), on_read_(std::move(on_read)) {}
  bool is_changed(uint64_t page) const { return (changed_[page / 64] >> page % 64 & 1) != 0; }

  const SavedVm& saved_;
  const uint64_t memory_bytes_;
  const Call& call_;
  const Hook on_read_;
  std::vector<uint64_t> changed_;
};

}  // namespace mayfly::daemon
