// SPDX-License-Identifier: Apache-2.0
//
// mayfly.v1.VmService over VmManager. Handlers run on gRPC's threads, one per call.
#pragma once

#include "daemon/vm_manager.h"
#include "mayfly/v1/vm.grpc.pb.h"

namespace mayfly::daemon {

class VmServiceImpl final : public ::mayfly::v1::VmService::Service {
 public:
  explicit VmServiceImpl(VmManager& manager) : manager_(manager) {}

  grpc::Status CreateVm(grpc::ServerContext*, const ::mayfly::v1::CreateVmRequest*,
                        ::mayfly::v1::CreateVmResponse*) override;
  grpc::Status StartVm(grpc::ServerContext*, const ::mayfly::v1::StartVmRequest*,
                       ::mayfly::v1::StartVmResponse*) override;
  grpc::Status PauseVm(grpc::ServerContext*, const ::mayfly::v1::PauseVmRequest*,
                       ::mayfly::v1::PauseVmResponse*) override;
  grpc::Status ResumeVm(grpc::ServerContext*, const ::mayfly::v1::ResumeVmRequest*,
                        ::mayfly::v1::ResumeVmResponse*) override;
  grpc::Status StopVm(grpc::ServerContext*, const ::mayfly::v1::StopVmRequest*,
                      ::mayfly::v1::StopVmResponse*) override;
  grpc::Status DeleteVm(grpc::ServerContext*, const ::mayfly::v1::DeleteVmRequest*,
                        ::mayfly::v1::DeleteVmResponse*) override;
  grpc::Status UpdateVm(grpc::ServerContext*, const ::mayfly::v1::UpdateVmRequest*,
                        ::mayfly::v1::UpdateVmResponse*) override;
  grpc::Status GetVm(grpc::ServerContext*, const ::mayfly::v1::GetVmRequest*,
                     ::mayfly::v1::GetVmResponse*) override;
  grpc::Status ListVms(grpc::ServerContext*, const ::mayfly::v1::ListVmsRequest*,
                       ::mayfly::v1::ListVmsResponse*) override;
  grpc::Status WaitVm(grpc::ServerContext*, const ::mayfly::v1::WaitVmRequest*,
                      ::mayfly::v1::WaitVmResponse*) override;

 private:
  VmManager& manager_;
};

}  // namespace mayfly::daemon
