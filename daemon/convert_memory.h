// SPDX-License-Identifier: Apache-2.0
//
// The messages of mayfly.v1.MemoryService to and from the daemon's plain values, as convert.h does
// it for the others. Any thread.
#pragma once

#include "base/error.h"
#include "daemon/convert.h"
#include "daemon/memory_manager.h"
#include "mayfly/v1/memory.pb.h"

namespace mayfly::daemon {

/// Refuses kinds that are not, and none.
Result<PagesPlan> from_proto(const v1::QueryPagesRequest& in);
ExportPlan from_proto(const v1::ExportMemoryRequest& in);
void to_proto(const MemoryDescription& in, v1::DescribeMemoryResponse* out);
void to_proto(const PageStretch& in, const std::vector<PageKind>& kinds,
              v1::QueryPagesResponse* out);
void to_proto(const ExportOffer& in, v1::ExportMemoryResponse* out);
void to_proto(const UsagePage& in, v1::ListMemoryUsageResponse* out);

}  // namespace mayfly::daemon
