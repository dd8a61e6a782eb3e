// SPDX-License-Identifier: Apache-2.0
//
// mayfly.v1.TemplateService over SnapshotManager, which makes templates, and TemplateStore, which
// has them. Handlers run on gRPC's threads, one per call.
#pragma once

#include "daemon/snapshot_manager.h"
#include "mayfly/v1/template.grpc.pb.h"

namespace mayfly::daemon {

class TemplateServiceImpl final : public ::mayfly::v1::TemplateService::Service {
 public:
  TemplateServiceImpl(SnapshotManager& snapshots, TemplateStore& templates)
      : snapshots_(snapshots), templates_(templates) {}

  grpc::Status PrepareTemplate(grpc::ServerContext*, const ::mayfly::v1::PrepareTemplateRequest*,
                               ::mayfly::v1::PrepareTemplateResponse*) override;
  grpc::Status GetTemplate(grpc::ServerContext*, const ::mayfly::v1::GetTemplateRequest*,
                           ::mayfly::v1::GetTemplateResponse*) override;
  grpc::Status ListTemplates(grpc::ServerContext*, const ::mayfly::v1::ListTemplatesRequest*,
                             ::mayfly::v1::ListTemplatesResponse*) override;
  grpc::Status DeleteTemplate(grpc::ServerContext*, const ::mayfly::v1::DeleteTemplateRequest*,
                              ::mayfly::v1::DeleteTemplateResponse*) override;

 private:
  SnapshotManager& snapshots_;
  TemplateStore& templates_;
};

}  // namespace mayfly::daemon
