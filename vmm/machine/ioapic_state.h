// SPDX-License-Identifier: Apache-2.0
//
// The IOAPIC as plain data. Untrusted: Ioapic::restore() looks at it as at guest input.
#pragma once

#include <array>
#include <cstdint>

namespace mayfly {

struct IoapicState {
  static constexpr uint32_t kMaxPins = 24;

  uint32_t select = 0;
  uint32_t id = 0;
  std::array<uint64_t, kMaxPins> redirection = {};
  std::array<bool, kMaxPins> pending = {};

  friend bool operator==(const IoapicState&, const IoapicState&) = default;
};

}  // namespace mayfly
