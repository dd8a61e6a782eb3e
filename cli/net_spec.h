// SPDX-License-Identifier: Apache-2.0
//
// From --net to mayfly.v1.Net.
#pragma once

#include "base/error.h"
#include "mayfly/v1/vm.pb.h"

#include <string>

namespace mayfly::cli {

/// "auto", "user", or "KEY=VALUE,..." with the keys that the help names.
Result<v1::Net> parse_net(const std::string& text);

}  // namespace mayfly::cli
