// SPDX-License-Identifier: Apache-2.0
//
// An io_uring as an attacker in the process uses it: found by its descriptor, mapped once more, and
// fed by hand, past the code of base/event that would not submit such things.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstdint>
#include <memory>

#include <linux/io_uring.h>

namespace mayfly::escape {

class Ring {
 public:
  /// The ring among descriptors from `first` on: the one that Loop::create() has just made.
  static Result<std::unique_ptr<Ring>> find(int first);
  /// One without restrictions, to show that the attempts are real.
  static Result<std::unique_ptr<Ring>> make_loose();

  int descriptor() const { return descriptor_; }

  /// One operation; its result, or a negative errno. The thread that made the ring only.
  int32_t submit(const io_uring_sqe& operation);
  /// Submits it as it is and on a registered file, whichever gets further.
  int32_t try_submit(io_uring_sqe operation);
  /// io_uring_register(2): 0 or more, or a negative errno.
  int32_t register_with(unsigned operation, const void* argument, unsigned count) const;

 private:
  Ring() = default;
  bool map(int descriptor, const io_uring_params& layout);

  int descriptor_ = -1;
  uint8_t* ring_ = nullptr;
  io_uring_sqe* entries_ = nullptr;
  io_uring_params layout_ = {};
};

}  // namespace mayfly::escape
