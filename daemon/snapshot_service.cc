// SPDX-License-Identifier: Apache-2.0
#include "daemon/snapshot_service.h"

#include "daemon/convert_snapshot.h"
#include "daemon/rpc.h"

namespace mayfly::daemon {

/// Refuses fields that this daemon does not know.
#define CHECK_REQUEST(request) \
  if (auto known = refuse_unknown_fields(request); !known) return to_status(known.error())

grpc::Status SnapshotServiceImpl::CreateSnapshot(grpc::ServerContext* context,
                                                 const v1::CreateSnapshotRequest* request,
                                                 v1::CreateSnapshotResponse* response) {
  CHECK_REQUEST(*request);
  const auto plain = from_proto(*request);
  if (!plain) return to_status(plain.error());
  const auto outcome = manager_.create(*plain, call_of(*context));
  if (!outcome) return to_status(outcome.error());
  to_proto(outcome->snapshot, response->mutable_snapshot());
  to_proto(outcome->vm, response->mutable_vm());
  to_proto(outcome->times, response->mutable_times());
  response->set_stopped_us(outcome->stopped_us);
  return grpc::Status::OK;
}

grpc::Status SnapshotServiceImpl::CancelSnapshot(grpc::ServerContext* context,
                                                 const v1::CancelSnapshotRequest* request,
                                                 v1::CancelSnapshotResponse* response) {
  CHECK_REQUEST(*request);
  const auto cancelled =
      manager_.cancel(request->snapshot_id(), request->vm_id(), call_of(*context));
  if (!cancelled) return to_status(cancelled.error());
  for (const std::string& id : *cancelled) response->add_snapshot_ids(id);
  return grpc::Status::OK;
}

grpc::Status SnapshotServiceImpl::GetSnapshot(grpc::ServerContext*,
                                              const v1::GetSnapshotRequest* request,
                                              v1::GetSnapshotResponse* response) {
  CHECK_REQUEST(*request);
  const auto view = manager_.get(request->snapshot_id());
  if (!view) return to_status(view.error());
  to_proto(*view, response->mutable_snapshot());
  return grpc::Status::OK;
}

grpc::Status SnapshotServiceImpl::ListSnapshots(grpc::ServerContext*,
                                                const v1::ListSnapshotsRequest* request,
                                                v1::ListSnapshotsResponse* response) {
  CHECK_REQUEST(*request);
  const auto page = manager_.list(request->page_size(), request->page_token());
  if (!page) return to_status(page.error());
  for (const SnapshotView& view : page->snapshots) to_proto(view, response->add_snapshots());
  response->set_next_page_token(page->next_page_token);
  return grpc::Status::OK;
}

grpc::Status SnapshotServiceImpl::DeleteSnapshot(grpc::ServerContext*,
                                                 const v1::DeleteSnapshotRequest* request,
                                                 v1::DeleteSnapshotResponse*) {
  CHECK_REQUEST(*request);
  const auto removed = manager_.remove(request->snapshot_id());
  return removed ? grpc::Status::OK : to_status(removed.error());
}

grpc::Status SnapshotServiceImpl::VerifySnapshot(grpc::ServerContext* context,
                                                 const v1::VerifySnapshotRequest* request,
                                                 v1::VerifySnapshotResponse* response) {
  CHECK_REQUEST(*request);
  const auto outcome = manager_.verify(request->snapshot_id(), call_of(*context));
  if (!outcome) return to_status(outcome.error());
  to_proto(outcome->snapshot, response->mutable_snapshot());
  for (const std::string& id : outcome->verified_ids) response->add_verified_ids(id);
  to_proto(outcome->times, response->mutable_times());
  return grpc::Status::OK;
}

grpc::Status SnapshotServiceImpl::RebaseSnapshot(grpc::ServerContext* context,
                                                 const v1::RebaseSnapshotRequest* request,
                                                 v1::RebaseSnapshotResponse* response) {
  CHECK_REQUEST(*request);
  const auto outcome = manager_.rebase(from_proto(*request), call_of(*context));
  if (!outcome) return to_status(outcome.error());
  to_proto(outcome->snapshot, response->mutable_snapshot());
  for (const std::string& id : outcome->merged_ids) response->add_merged_ids(id);
  to_proto(outcome->times, response->mutable_times());
  return grpc::Status::OK;
}

grpc::Status SnapshotServiceImpl::RecordWorkingSet(grpc::ServerContext* context,
                                                   const v1::RecordWorkingSetRequest* request,
                                                   v1::RecordWorkingSetResponse* response) {
  CHECK_REQUEST(*request);
  const auto outcome = manager_.record_working_set(request->vm_id(), call_of(*context));
  if (!outcome) return to_status(outcome.error());
  to_proto(*outcome, response);
  return grpc::Status::OK;
}

grpc::Status SnapshotServiceImpl::RestoreVm(grpc::ServerContext* context,
                                            const v1::RestoreVmRequest* request,
                                            v1::RestoreVmResponse* response) {
  CHECK_REQUEST(*request);
  const auto plan = from_proto(*request);
  if (!plan) return to_status(plan.error());
  const auto outcome = manager_.restore(*plan, call_of(*context));
  if (!outcome) return to_status(outcome.error());
  to_proto(outcome->vm, response->mutable_vm());
  to_proto(outcome->times, response->mutable_times());
  return grpc::Status::OK;
}

grpc::Status SnapshotServiceImpl::CloneVm(grpc::ServerContext* context,
                                          const v1::CloneVmRequest* request,
                                          grpc::ServerWriter<v1::CloneVmResponse>* stream) {
  CHECK_REQUEST(*request);
  const auto made = [&](const std::string& vm_id, const Result<VmOutcome>& outcome) {
    v1::CloneVmResponse response;
    response.set_vm_id(vm_id);
    if (outcome) {
      to_proto(outcome->vm, response.mutable_vm());
      to_proto(outcome->times, response.mutable_times());
    } else {
      *response.mutable_error() = to_proto(outcome.error());
    }
    // A client that has gone has cancelled the call, which ends what is not made yet.
    stream->Write(response);
  };
  const auto plan = from_proto(*request);
  if (!plan) return to_status(plan.error());
  const auto cloned = manager_.clone(*plan, made, call_of(*context));
  return cloned ? grpc::Status::OK : to_status(cloned.error());
}

}  // namespace mayfly::daemon
