// SPDX-License-Identifier: Apache-2.0
//
// mayfly.v1.ExecService over ExecSession. A call has two threads: gRPC's for the output, one more for the input.
#pragma once

#include "mayfly/v1/exec.grpc.pb.h"

#include "daemon/vm_manager.h"

namespace mayfly::daemon {

class ExecServiceImpl final : public ::mayfly::v1::ExecService::Service {
 public:
  using Stream = grpc::ServerReaderWriter<::mayfly::v1::ExecResponse, ::mayfly::v1::ExecRequest>;
  explicit ExecServiceImpl(VmManager& manager) : manager_(manager) {}

  grpc::Status Exec(grpc::ServerContext* context, Stream* stream) override;

 private:
  VmManager& manager_;
};

}  // namespace mayfly::daemon
