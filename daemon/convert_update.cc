// SPDX-License-Identifier: Apache-2.0
#include "daemon/convert_update.h"

#include "daemon/text.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <string_view>

namespace mayfly::daemon {

namespace {

constexpr size_t kMaxPathBytes = 100;

Result<> take_balloon_target(const v1::VmSpec& in, Vm::Update& out) {
  out.balloon_target_mib = in.balloon().target_mib();
  return {};
}

// Without a value: none from now on.
Result<> take_metadata(const v1::VmSpec& in, Vm::Update& out) {
  out.metadata.emplace();
  if (in.has_metadata()) out.metadata = TRY(MetadataDocument::parse("metadata", in.metadata()));
  return {};
}

// A field that can be changed is a line here, a function above, and a part of Vm::Update.
struct Field {
  std::string_view path;
  Result<> (*take)(const v1::VmSpec& in, Vm::Update& out);
};
constexpr Field kFields[] = {
    {"balloon.target_mib", take_balloon_target},
    {"metadata", take_metadata},
};

std::string known_paths() {
  std::string text;
  for (const Field& field : kFields) {
    if (!text.empty()) text += ", ";
    text += field.path;
  }
  return text;
}

}  // namespace

Result<Vm::Update> from_proto(const v1::UpdateVmRequest& in) {
  if (in.update_mask().paths().empty()) {
    return fail({Code::kInvalidArgument, "UPDATE_MASK"},
                "update_mask: names no field; what can be changed: %s", known_paths().c_str());
  }
  Vm::Update update;
  for (const std::string& path : in.update_mask().paths()) {
    const auto* const field = std::ranges::find(kFields, path, &Field::path);
    if (field == std::end(kFields)) {
      return fail({Code::kInvalidArgument, "UPDATE_MASK"},
                  "update_mask: \"%s\" cannot be changed; what can be: %s",
                  printable(path, kMaxPathBytes).c_str(), known_paths().c_str());
    }
    TRY(field->take(in.spec(), update));
  }
  return update;
}

}  // namespace mayfly::daemon
