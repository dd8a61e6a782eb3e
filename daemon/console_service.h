// SPDX-License-Identifier: Apache-2.0
//
// mayfly.v1.ConsoleService over Console.
#pragma once

#include "mayfly/v1/console.grpc.pb.h"

#include "daemon/vm_manager.h"

namespace mayfly::daemon {

class ConsoleServiceImpl final : public ::mayfly::v1::ConsoleService::Service {
 public:
  using ReadStream = grpc::ServerWriter<::mayfly::v1::ReadConsoleResponse>;
  using AttachStream =
      grpc::ServerReaderWriter<::mayfly::v1::AttachConsoleResponse, ::mayfly::v1::AttachConsoleRequest>;
  explicit ConsoleServiceImpl(VmManager& manager) : manager_(manager) {}

  grpc::Status ReadConsole(grpc::ServerContext* context, const ::mayfly::v1::ReadConsoleRequest* request,
                           ReadStream* stream) override;
  grpc::Status AttachConsole(grpc::ServerContext* context, AttachStream* stream) override;

 private:
  VmManager& manager_;
};

}  // namespace mayfly::daemon
