// SPDX-License-Identifier: Apache-2.0
#include "daemon/vm_service.h"

#include "daemon/convert.h"
#include "daemon/convert_update.h"
#include "daemon/rpc.h"

namespace mayfly::daemon {

namespace {

template <typename Response>
grpc::Status answer(const Result<VmOutcome>& outcome, Response* response) {
  if (!outcome) return to_status(outcome.error());
  to_proto(outcome->vm, response->mutable_vm());
  to_proto(outcome->times, response->mutable_times());
  return grpc::Status::OK;
}

template <typename Response>
grpc::Status answer(const Result<VmView>& view, Response* response) {
  if (!view) return to_status(view.error());
  to_proto(*view, response->mutable_vm());
  return grpc::Status::OK;
}

}  // namespace

/// Refuses fields that this daemon does not know.
#define CHECK_REQUEST(request) \
  if (auto known = refuse_unknown_fields(request); !known) return to_status(known.error())

grpc::Status VmServiceImpl::CreateVm(grpc::ServerContext* context,
                                     const v1::CreateVmRequest* request,
                                     v1::CreateVmResponse* response) {
  CHECK_REQUEST(*request);
  const auto plain = from_proto(*request);
  if (!plain) return to_status(plain.error());
  return answer(manager_.create(*plain, call_of(*context)), response);
}

grpc::Status VmServiceImpl::StartVm(grpc::ServerContext* context, const v1::StartVmRequest* request,
                                    v1::StartVmResponse* response) {
  CHECK_REQUEST(*request);
  return answer(manager_.start(request->vm_id(), call_of(*context)), response);
}

grpc::Status VmServiceImpl::PauseVm(grpc::ServerContext* context, const v1::PauseVmRequest* request,
                                    v1::PauseVmResponse* response) {
  CHECK_REQUEST(*request);
  return answer(manager_.pause(request->vm_id(), call_of(*context)), response);
}

grpc::Status VmServiceImpl::ResumeVm(grpc::ServerContext* context,
                                     const v1::ResumeVmRequest* request,
                                     v1::ResumeVmResponse* response) {
  CHECK_REQUEST(*request);
  return answer(manager_.resume(request->vm_id(), call_of(*context)), response);
}

grpc::Status VmServiceImpl::StopVm(grpc::ServerContext* context, const v1::StopVmRequest* request,
                                   v1::StopVmResponse* response) {
  CHECK_REQUEST(*request);
  std::optional<uint32_t> grace_ms;
  if (request->has_grace_ms()) grace_ms = request->grace_ms();
  return answer(manager_.stop(request->vm_id(), grace_ms, call_of(*context)), response);
}

grpc::Status VmServiceImpl::DeleteVm(grpc::ServerContext* context,
                                     const v1::DeleteVmRequest* request,
                                     v1::DeleteVmResponse* response) {
  CHECK_REQUEST(*request);
  return answer(manager_.remove(request->vm_id(), request->force(), call_of(*context)), response);
}

grpc::Status VmServiceImpl::UpdateVm(grpc::ServerContext* context,
                                     const v1::UpdateVmRequest* request,
                                     v1::UpdateVmResponse* response) {
  CHECK_REQUEST(*request);
  const auto update = from_proto(*request);
  if (!update) return to_status(update.error());
  return answer(manager_.update(request->vm_id(), *update, call_of(*context)), response);
}

grpc::Status VmServiceImpl::GetVm(grpc::ServerContext* context, const v1::GetVmRequest* request,
                                  v1::GetVmResponse* response) {
  CHECK_REQUEST(*request);
  return answer(manager_.get(request->vm_id(), call_of(*context)), response);
}

grpc::Status VmServiceImpl::ListVms(grpc::ServerContext*, const v1::ListVmsRequest* request,
                                    v1::ListVmsResponse* response) {
  CHECK_REQUEST(*request);
  const auto page = manager_.list(request->page_size(), request->page_token());
  if (!page) return to_status(page.error());
  for (const VmView& view : page->vms) to_proto(view, response->add_vms());
  response->set_next_page_token(page->next_page_token);
  return grpc::Status::OK;
}

grpc::Status VmServiceImpl::WaitVm(grpc::ServerContext* context, const v1::WaitVmRequest* request,
                                   v1::WaitVmResponse* response) {
  CHECK_REQUEST(*request);
  const auto goal = from_proto(*request);
  if (!goal) return to_status(goal.error());
  return answer(manager_.wait(request->vm_id(), *goal, call_of(*context)), response);
}

}  // namespace mayfly::daemon
