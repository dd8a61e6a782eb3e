// SPDX-License-Identifier: Apache-2.0
//
// The exit report of a monitor that made a call its filter denies: control.proto's ExitReport with
// SYSCALL_DENIED and which call. Written by hand, for it is written in a signal handler, where
// nothing may allocate.
#pragma once

#include "vmm/seccomp/thread_kind.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace mayfly::vmm {

/// Bytes built up in place; what does not fit is left out. Async-signal-safe.
class DenialText {
 public:
  void add(uint8_t byte);
  void add(const char* text);
  void add_decimal(uint32_t number);
  void add_varint(uint32_t number);

  std::span<const uint8_t> bytes() const { return std::span(bytes_).first(size_); }

 private:
  static constexpr size_t kCapacity = 128;

  std::array<uint8_t, kCapacity> bytes_;
  size_t size_ = 0;
};

/// The message's bytes. Should the monitor just have written its ordinary report, or two threads
/// write this one, they add up: protobuf messages merge, and the last reason counts.
DenialText denial_report(ThreadKind thread, uint32_t number);

/// The same for people, with a line's end.
DenialText denial_line(ThreadKind thread, uint32_t number);

}  // namespace mayfly::vmm
