// SPDX-License-Identifier: Apache-2.0
#include "daemon/memory_service.h"

#include "daemon/convert_memory.h"
#include "daemon/rpc.h"

namespace mayfly::daemon {

grpc::Status MemoryServiceImpl::DescribeMemory(grpc::ServerContext* context,
                                               const v1::DescribeMemoryRequest* request,
                                               v1::DescribeMemoryResponse* response) {
  if (auto known = refuse_unknown_fields(*request); !known) return to_status(known.error());
  const auto found = manager_.describe(request->vm_id(), request->count_pages(), call_of(*context));
  if (!found) return to_status(found.error());
  to_proto(*found, response);
  return grpc::Status::OK;
}

grpc::Status MemoryServiceImpl::QueryPages(grpc::ServerContext* context,
                                           const v1::QueryPagesRequest* request,
                                           grpc::ServerWriter<v1::QueryPagesResponse>* stream) {
  if (auto known = refuse_unknown_fields(*request); !known) return to_status(known.error());
  const auto plan = from_proto(*request);
  if (!plan) return to_status(plan.error());
  const auto told = [&](const PageStretch& stretch) {
    v1::QueryPagesResponse response;
    to_proto(stretch, plan->kinds, &response);
    return stream->Write(response);
  };
  const auto queried = manager_.query(*plan, told, call_of(*context));
  return queried ? grpc::Status::OK : to_status(queried.error());
}

grpc::Status MemoryServiceImpl::ExportMemory(grpc::ServerContext* context,
                                             const v1::ExportMemoryRequest* request,
                                             v1::ExportMemoryResponse* response) {
  if (auto known = refuse_unknown_fields(*request); !known) return to_status(known.error());
  const auto offer = manager_.offer(from_proto(*request), call_of(*context));
  if (!offer) return to_status(offer.error());
  to_proto(*offer, response);
  return grpc::Status::OK;
}

grpc::Status MemoryServiceImpl::ListMemoryUsage(grpc::ServerContext*,
                                                const v1::ListMemoryUsageRequest* request,
                                                v1::ListMemoryUsageResponse* response) {
  if (auto known = refuse_unknown_fields(*request); !known) return to_status(known.error());
  const auto page = manager_.usage(request->page_size(), request->page_token());
  if (!page) return to_status(page.error());
  to_proto(*page, response);
  return grpc::Status::OK;
}

}  // namespace mayfly::daemon
