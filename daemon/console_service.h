// SPDX-License-Identifier: Apache-2.0
//
// mayfly.v1.ConsoleService over Console.
#pragma once

#include "daemon/bidi.h"
#include "daemon/vm_manager.h"
#include "mayfly/v1/console.grpc.pb.h"

namespace mayfly::daemon {

using AttachCall =
    BidiCall<::mayfly::v1::AttachConsoleRequest, ::mayfly::v1::AttachConsoleResponse>;

class ConsoleServiceImpl final : public ::mayfly::v1::ConsoleService::WithAsyncMethod_AttachConsole<
                                     ::mayfly::v1::ConsoleService::Service> {
 public:
  using ReadStream = grpc::ServerWriter<::mayfly::v1::ReadConsoleResponse>;
  explicit ConsoleServiceImpl(VmManager& manager) : manager_(manager) {}

  grpc::Status ReadConsole(grpc::ServerContext* context,
                           const ::mayfly::v1::ReadConsoleRequest* request,
                           ReadStream* stream) override;
  /// AttachConsole; runs on a thread of the call's own, and finishes it.
  void handle_attach(AttachCall& call);

 private:
  VmManager& manager_;
};

}  // namespace mayfly::daemon
