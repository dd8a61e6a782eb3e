// SPDX-License-Identifier: Apache-2.0
//
// mayfly.v1.ExecService over ExecSession. A call has two threads: one for the output, one for the
// input.
#pragma once

#include "daemon/bidi.h"
#include "daemon/vm_manager.h"
#include "mayfly/v1/exec.grpc.pb.h"

namespace mayfly::daemon {

using ExecCall = BidiCall<::mayfly::v1::ExecRequest, ::mayfly::v1::ExecResponse>;

class ExecServiceImpl final
    : public ::mayfly::v1::ExecService::WithAsyncMethod_Exec<::mayfly::v1::ExecService::Service> {
 public:
  explicit ExecServiceImpl(VmManager& manager) : manager_(manager) {}

  /// Runs on a thread of the call's own, and finishes it.
  void handle(ExecCall& call);

 private:
  VmManager& manager_;
};

}  // namespace mayfly::daemon
