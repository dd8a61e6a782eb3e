// SPDX-License-Identifier: Apache-2.0
//
// The commands about templates. Each gives the program's exit code.
#pragma once

#include "cli/flags.h"

#include <string>
#include <vector>

namespace mayfly::cli {

int prepare_template(const GlobalFlags& global, const TemplateFlags& flags);
int list_templates(const GlobalFlags& global);
int inspect_template(const GlobalFlags& global, const std::string& template_id);
int delete_templates(const GlobalFlags& global, const std::vector<std::string>& template_ids);

}  // namespace mayfly::cli
