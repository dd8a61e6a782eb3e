// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace mayfly::vmm {

/// The threads of the monitor as far as their filters differ. The numbers are the filters' tags.
enum class ThreadKind : uint8_t {
  kStart,  // the loop thread until the machine is built, and what a vCPU's thread starts under
  kLoop,   // the loop thread afterwards
  kVcpu,
  kGuard,  // waits for the end of whoever provides guest RAM
};

inline constexpr size_t kThreadKindCount = 4;

/// As they appear in reports.
inline constexpr std::array<const char*, kThreadKindCount> kThreadKindNames = {"start", "loop",
                                                                               "vcpu", "guard"};

}  // namespace mayfly::vmm
