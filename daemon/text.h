// SPDX-License-Identifier: Apache-2.0
//
// Text from a monitor or a guest, made fit for messages and protobuf strings. Any thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace mayfly::daemon {

/// `text` cut to `max_bytes`, with every byte that is not printable ASCII, tab or newline as '?'.
/// What comes out is valid UTF-8 whatever went in.
std::string printable(std::string_view text, size_t max_bytes);

/// The last `max_bytes` of `text`, made printable.
std::string printable_tail(std::string_view text, size_t max_bytes);

}  // namespace mayfly::daemon
