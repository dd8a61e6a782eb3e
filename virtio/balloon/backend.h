// SPDX-License-Identifier: Apache-2.0
//
// Where pages go that the guest does without. Threads: the loop thread.
#pragma once

#include "base/error.h"
#include "base/memory/guest_memory.h"

namespace mayfly::virtio::balloon {

class PageTaker {
 public:
  virtual ~PageTaker() = default;

  /// The range as RAM, or kOutOfRange.
  virtual Result<GuestSpan> find(GuestRange range) const = 0;
  /// The host may use the memory of these whole pages; the guest can touch them again at any time,
  /// and finds anything in them that it once wrote there, or zeroes.
  virtual Result<> take(const GuestSpan& pages) = 0;
};

/// Gives them back to the kernel.
class RamTaker final : public PageTaker {
 public:
  enum class Policy : uint8_t {
    kRelease,
    /// RAM that somebody else fills: a page that was given back would be missing once more, and
    /// nobody would fill it a second time. Nothing is given back.
    kKeep,
  };

  RamTaker(const GuestMemory& memory, Policy policy) : memory_(memory), policy_(policy) {}
  Result<GuestSpan> find(GuestRange range) const override { return memory_.view(range); }
  Result<> take(const GuestSpan& pages) override {
    return policy_ == Policy::kKeep ? Result<>() : memory_.release(pages);
  }

 private:
  const GuestMemory& memory_;
  const Policy policy_;
};

}  // namespace mayfly::virtio::balloon
