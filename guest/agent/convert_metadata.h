// SPDX-License-Identifier: Apache-2.0
//
// As convert.h, the messages of the metadata service.
#pragma once

#include "base/wire.h"
#include "guest/agent/frame.h"
#include "guest/agent/messages.h"

#include <cstdint>

namespace mayfly::guest {

/// Of HostToAgent.
bool is_metadata_field(uint32_t number);
/// A field that is one of those.
Result<HostMessage> parse_metadata(const WireField& field);

void add_metadata_request(SendQueue& queue, const MetadataRequest& request);

}  // namespace mayfly::guest
