// SPDX-License-Identifier: Apache-2.0
#include "daemon/rpc.h"

#include "google/rpc/error_details.pb.h"

#include <chrono>
#include <string>

namespace mayfly::daemon {

google::rpc::Status to_proto(const Error& error) {
  google::rpc::ErrorInfo info;
  info.set_reason(error.reason());
  info.set_domain("mayfly");
  if (error.os_errno() != 0) (*info.mutable_metadata())["errno"] = std::to_string(error.os_errno());
  google::rpc::Status status;
  status.set_code(static_cast<int32_t>(error.code()));
  status.set_message(error.message());
  status.add_details()->PackFrom(info);
  return status;
}

grpc::Status to_status(const Error& error) {
  return grpc::Status(static_cast<grpc::StatusCode>(error.code()), error.message(),
                      to_proto(error).SerializeAsString());
}

Call deadline_of(const grpc::ServerContextBase& context) {
  Call call;
  const auto deadline = context.deadline();
  if (deadline != std::chrono::system_clock::time_point::max()) {
    const auto left = deadline - std::chrono::system_clock::now();
    // A year is forever, and keeps the sum below the clock's end.
    if (left < std::chrono::years(1)) call.deadline = std::chrono::steady_clock::now() + left;
  }
  return call;
}

Call call_of(const grpc::ServerContextBase& context) {
  Call call = deadline_of(context);
  call.is_cancelled = [&context] { return context.IsCancelled(); };
  return call;
}

}  // namespace mayfly::daemon
