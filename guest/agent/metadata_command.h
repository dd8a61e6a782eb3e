// SPDX-License-Identifier: Apache-2.0
//
// `mayfly-agent metadata`: reads the guest's metadata for scripts, without a network or an HTTP
// client. A program of the guest's like any other: it asks the agent that serves it.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <functional>
#include <span>
#include <string>

namespace mayfly::guest {

/// Connects to the service; blocking.
using ConnectToMetadata = std::function<Result<Fd>()>;

/// `arguments`: [--json] [PATH]. Writes what it gets to standard output. The exit code: 0, 1 where
/// there is none (said on standard error), 2 for arguments that are none.
int metadata_command(std::span<char* const> arguments, const ConnectToMetadata& connect);

/// The body of what `path` answers; `path` begins with a `/`.
Result<std::string> read_metadata(const std::string& path, bool as_json,
                                  const ConnectToMetadata& connect);

}  // namespace mayfly::guest
