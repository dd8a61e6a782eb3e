// SPDX-License-Identifier: Apache-2.0
//
// A machine's state to the bytes of a snapshot's `state` part and back (proto/state.proto,
// MachineState). Linked into the monitor: no protobuf library. Pure; any thread.
#pragma once

#include "base/error.h"
#include "snapshot/sealed.h"
#include "snapshot/state.h"

#include <cstddef>
#include <span>

namespace mayfly::snapshot {

/// The part's limit: 32 vCPUs with every list full take a fifth of it.
inline constexpr uint64_t kMaxStateBytes = uint64_t{8} << 20;

/// The whole part, header and all.
Sealed encode_state(const MachineState& state);

/// Hostile bytes: the whole part. What the error names is a field of the .proto file. Values are
/// inside the lists' bounds and otherwise unchecked: that is for those who restore them.
Result<MachineState> decode_state(std::span<const std::byte> file);

}  // namespace mayfly::snapshot
