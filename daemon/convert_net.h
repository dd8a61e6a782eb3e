// SPDX-License-Identifier: Apache-2.0
//
// mayfly.v1.Net to and from the daemon's plain values, as convert.h does it for others. Any thread.
#pragma once

#include "daemon/convert.h"
#include "daemon/net_spec.h"
#include "daemon/vm_net.h"

#include <string>

namespace mayfly::daemon {

/// `field` is named in a refusal.
Result<NetSpec> from_proto(const std::string& field, const v1::Net& in);
void to_proto(const NetView& in, v1::Net* out);

}  // namespace mayfly::daemon
