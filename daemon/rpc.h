// SPDX-License-Identifier: Apache-2.0
//
// What every gRPC service here does: an Error becomes a status with details, a server context
// becomes a Call.
#pragma once

#include "base/error.h"
#include "daemon/call.h"
#include "google/rpc/status.pb.h"

#include <grpcpp/server_context.h>
#include <grpcpp/support/status.h>

namespace mayfly::daemon {

/// The code and message, and one ErrorInfo.
google::rpc::Status to_proto(const Error& error);

/// The same, with that in grpc-status-details-bin.
grpc::Status to_status(const Error& error);

/// The caller's deadline alone.
Call deadline_of(const grpc::ServerContextBase& context);

/// The caller's deadline and cancellation, in a synchronous handler. `context` outlives the Call.
Call call_of(const grpc::ServerContextBase& context);

}  // namespace mayfly::daemon
