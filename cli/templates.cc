// SPDX-License-Identifier: Apache-2.0
#include "cli/templates.h"

#include "cli/daemon_call.h"

#include <cstdio>

namespace mayfly::cli {

int prepare_template(const GlobalFlags& global, const TemplateFlags& flags) {
  v1::PrepareTemplateRequest request;
  request.set_template_id(flags.template_id);
  request.set_snapshot_id(flags.snapshot_id);
  request.set_shells(flags.shells);
  const auto response = connect(global)->call(request);
  if (!response) return failed(global, response.error());
  if (global.json) {
    print_json(*response);
    return 0;
  }
  std::printf("%s: %.1f MiB resident, %u shells, in %.1f ms\n",
              response->template_().template_id().c_str(),
              static_cast<double>(response->template_().resident_bytes()) / (1 << 20),
              response->template_().shells().ready(),
              static_cast<double>(response->times().total_us()) / 1e3);
  return 0;
}

int list_templates(const GlobalFlags& global) {
  return list_all<v1::ListTemplatesRequest>(global, &v1::ListTemplatesResponse::mutable_templates,
                                            template_table);
}

int inspect_template(const GlobalFlags& global, const std::string& template_id) {
  v1::GetTemplateRequest request;
  request.set_template_id(template_id);
  const auto response = connect(global)->call(request);
  if (!response) return failed(global, response.error());
  print_json(response->template_());
  return 0;
}

int delete_templates(const GlobalFlags& global, const std::vector<std::string>& template_ids) {
  return delete_each(global, template_ids, [](const std::string& id) {
    v1::DeleteTemplateRequest request;
    request.set_template_id(id);
    return request;
  });
}

}  // namespace mayfly::cli
