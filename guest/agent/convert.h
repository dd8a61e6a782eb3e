// SPDX-License-Identifier: Apache-2.0
//
// Between the bytes of proto/agent.proto and the values of messages.h. Parsing distrusts the host;
// errors are kInvalidArgument and name the field.
#pragma once

#include "base/error.h"
#include "guest/agent/frame.h"
#include "guest/agent/messages.h"

#include <cstddef>
#include <span>
#include <string_view>

namespace mayfly::guest {

/// The most bytes of output one frame carries; leaves room for the message around them.
inline constexpr size_t kMaxOutputBytes = 32 * 1024;

Result<ExecInput> parse_exec_input(std::span<const std::byte> payload);
Result<HostMessage> parse_host_message(std::span<const std::byte> payload);

void add_hello(SendQueue& queue, const Hello& hello);
void add_shutdown_failed(SendQueue& queue, std::string_view message);
void add_reseeded(SendQueue& queue, const Reseeded& reseeded);
/// Empty: it is set.
void add_network_set(SendQueue& queue, std::string_view failure);
void add_started(SendQueue& queue, uint32_t pid);
/// `bytes` is at most kMaxOutputBytes.
void add_output(SendQueue& queue, OutputStream stream, std::span<const std::byte> bytes);
void add_exited(SendQueue& queue, const Exited& exited);
void add_failed(SendQueue& queue, int guest_errno, std::string_view message);

}  // namespace mayfly::guest
