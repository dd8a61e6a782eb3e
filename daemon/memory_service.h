// SPDX-License-Identifier: Apache-2.0
//
// mayfly.v1.MemoryService over MemoryManager. Handlers run on gRPC's threads, one per call.
#pragma once

#include "daemon/memory_manager.h"
#include "mayfly/v1/memory.grpc.pb.h"

namespace mayfly::daemon {

class MemoryServiceImpl final : public ::mayfly::v1::MemoryService::Service {
 public:
  explicit MemoryServiceImpl(MemoryManager& manager) : manager_(manager) {}

  grpc::Status DescribeMemory(grpc::ServerContext*, const ::mayfly::v1::DescribeMemoryRequest*,
                              ::mayfly::v1::DescribeMemoryResponse*) override;
  grpc::Status QueryPages(grpc::ServerContext*, const ::mayfly::v1::QueryPagesRequest*,
                          grpc::ServerWriter<::mayfly::v1::QueryPagesResponse>*) override;
  grpc::Status ExportMemory(grpc::ServerContext*, const ::mayfly::v1::ExportMemoryRequest*,
                            ::mayfly::v1::ExportMemoryResponse*) override;
  grpc::Status ListMemoryUsage(grpc::ServerContext*, const ::mayfly::v1::ListMemoryUsageRequest*,
                               ::mayfly::v1::ListMemoryUsageResponse*) override;

 private:
  MemoryManager& manager_;
};

}  // namespace mayfly::daemon
