// SPDX-License-Identifier: Apache-2.0
#include "daemon/health_service.h"

#include "daemon/rpc.h"

namespace mayfly::daemon {

using ::grpc::health::v1::HealthCheckRequest;
using ::grpc::health::v1::HealthCheckResponse;

void HealthServiceImpl::stop() {
  {
    std::lock_guard lock(mutex_);
    is_stopped_ = true;
  }
  stopped_.notify_all();
}

// Locked.
HealthCheckResponse HealthServiceImpl::state() const {
  HealthCheckResponse response;
  response.set_status(is_stopped_ ? HealthCheckResponse::NOT_SERVING
                                  : HealthCheckResponse::SERVING);
  return response;
}

grpc::Status HealthServiceImpl::Check(grpc::ServerContext*, const HealthCheckRequest* request,
                                      HealthCheckResponse* response) {
  if (!services_.contains(request->service())) {
    return to_status(
        fail({Code::kNotFound, "SERVICE"}, "service: there is none of this name").error());
  }
  std::lock_guard lock(mutex_);
  *response = state();
  return grpc::Status::OK;
}

grpc::Status HealthServiceImpl::Watch(grpc::ServerContext* context,
                                      const HealthCheckRequest* request,
                                      grpc::ServerWriter<HealthCheckResponse>* stream) {
  const Call call = call_of(*context);
  std::unique_lock lock(mutex_);
  HealthCheckResponse response = state();
  if (!services_.contains(request->service())) {
    response.set_status(HealthCheckResponse::SERVICE_UNKNOWN);
  }
  lock.unlock();
  if (!stream->Write(response)) return grpc::Status::CANCELLED;
  lock.lock();
  if (auto waited =
          call.wait(lock, stopped_, "watching the daemon's health", [&] { return is_stopped_; });
      !waited) {
    return to_status(waited.error());
  }
  response = state();
  lock.unlock();
  (void)stream->Write(response);
  return grpc::Status::OK;
}

}  // namespace mayfly::daemon
