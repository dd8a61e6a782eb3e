// SPDX-License-Identifier: Apache-2.0
//
// mayfly.v1.SnapshotService over SnapshotManager. Handlers run on gRPC's threads, one per call.
#pragma once

#include "daemon/snapshot_manager.h"
#include "mayfly/v1/snapshot.grpc.pb.h"

namespace mayfly::daemon {

class SnapshotServiceImpl final : public ::mayfly::v1::SnapshotService::Service {
 public:
  explicit SnapshotServiceImpl(SnapshotManager& manager) : manager_(manager) {}

  grpc::Status CreateSnapshot(grpc::ServerContext*, const ::mayfly::v1::CreateSnapshotRequest*,
                              ::mayfly::v1::CreateSnapshotResponse*) override;
  grpc::Status CancelSnapshot(grpc::ServerContext*, const ::mayfly::v1::CancelSnapshotRequest*,
                              ::mayfly::v1::CancelSnapshotResponse*) override;
  grpc::Status GetSnapshot(grpc::ServerContext*, const ::mayfly::v1::GetSnapshotRequest*,
                           ::mayfly::v1::GetSnapshotResponse*) override;
  grpc::Status ListSnapshots(grpc::ServerContext*, const ::mayfly::v1::ListSnapshotsRequest*,
                             ::mayfly::v1::ListSnapshotsResponse*) override;
  grpc::Status DeleteSnapshot(grpc::ServerContext*, const ::mayfly::v1::DeleteSnapshotRequest*,
                              ::mayfly::v1::DeleteSnapshotResponse*) override;
  grpc::Status VerifySnapshot(grpc::ServerContext*, const ::mayfly::v1::VerifySnapshotRequest*,
                              ::mayfly::v1::VerifySnapshotResponse*) override;
  grpc::Status RebaseSnapshot(grpc::ServerContext*, const ::mayfly::v1::RebaseSnapshotRequest*,
                              ::mayfly::v1::RebaseSnapshotResponse*) override;
  grpc::Status RecordWorkingSet(grpc::ServerContext*, const ::mayfly::v1::RecordWorkingSetRequest*,
                                ::mayfly::v1::RecordWorkingSetResponse*) override;
  grpc::Status RestoreVm(grpc::ServerContext*, const ::mayfly::v1::RestoreVmRequest*,
                         ::mayfly::v1::RestoreVmResponse*) override;
  grpc::Status CloneVm(grpc::ServerContext*, const ::mayfly::v1::CloneVmRequest*,
                       grpc::ServerWriter<::mayfly::v1::CloneVmResponse>*) override;

 private:
  SnapshotManager& manager_;
};

}  // namespace mayfly::daemon
