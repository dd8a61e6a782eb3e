// SPDX-License-Identifier: Apache-2.0
//
// The messages of mayfly.v1's SnapshotService and TemplateService to and from the daemon's plain
// values, as convert.h does it for the others. Any thread.
#pragma once

#include "base/error.h"
#include "daemon/convert.h"
#include "daemon/snapshot_manager.h"
#include "mayfly/v1/snapshot.pb.h"
#include "mayfly/v1/template.pb.h"

namespace mayfly::daemon {

Result<SnapshotRequest> from_proto(const v1::CreateSnapshotRequest& in);
Result<RestoreVmPlan> from_proto(const v1::RestoreVmRequest& in);
RebasePlan from_proto(const v1::RebaseSnapshotRequest& in);
Result<ClonePlan> from_proto(const v1::CloneVmRequest& in);
void to_proto(const SnapshotView& in, v1::Snapshot* out);
void to_proto(const RecordOutcome& in, v1::RecordWorkingSetResponse* out);
TemplateRequest from_proto(const v1::PrepareTemplateRequest& in);
void to_proto(const TemplateView& in, v1::Template* out);

}  // namespace mayfly::daemon
