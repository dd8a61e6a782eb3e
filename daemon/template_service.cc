// SPDX-License-Identifier: Apache-2.0
#include "daemon/template_service.h"

#include "daemon/convert_snapshot.h"
#include "daemon/rpc.h"

namespace mayfly::daemon {

grpc::Status TemplateServiceImpl::PrepareTemplate(grpc::ServerContext* context,
                                                  const v1::PrepareTemplateRequest* request,
                                                  v1::PrepareTemplateResponse* response) {
  if (auto known = refuse_unknown_fields(*request); !known) return to_status(known.error());
  const auto outcome = snapshots_.prepare_template(from_proto(*request), call_of(*context));
  if (!outcome) return to_status(outcome.error());
  to_proto(outcome->made, response->mutable_template_());
  to_proto(outcome->times, response->mutable_times());
  return grpc::Status::OK;
}

grpc::Status TemplateServiceImpl::GetTemplate(grpc::ServerContext*,
                                              const v1::GetTemplateRequest* request,
                                              v1::GetTemplateResponse* response) {
  if (auto known = refuse_unknown_fields(*request); !known) return to_status(known.error());
  const auto view = templates_.get(request->template_id());
  if (!view) return to_status(view.error());
  to_proto(*view, response->mutable_template_());
  return grpc::Status::OK;
}

grpc::Status TemplateServiceImpl::ListTemplates(grpc::ServerContext*,
                                                const v1::ListTemplatesRequest* request,
                                                v1::ListTemplatesResponse* response) {
  if (auto known = refuse_unknown_fields(*request); !known) return to_status(known.error());
  const auto page = templates_.list(request->page_size(), request->page_token());
  if (!page) return to_status(page.error());
  for (const TemplateView& view : page->templates) to_proto(view, response->add_templates());
  response->set_next_page_token(page->next_page_token);
  return grpc::Status::OK;
}

grpc::Status TemplateServiceImpl::DeleteTemplate(grpc::ServerContext*,
                                                 const v1::DeleteTemplateRequest* request,
                                                 v1::DeleteTemplateResponse*) {
  if (auto known = refuse_unknown_fields(*request); !known) return to_status(known.error());
  const auto removed = templates_.remove(request->template_id());
  return removed ? grpc::Status::OK : to_status(removed.error());
}

}  // namespace mayfly::daemon
