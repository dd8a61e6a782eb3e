// SPDX-License-Identifier: Apache-2.0
#include "jailer/jail_spec.h"

#include <charconv>
#include <string_view>

namespace mayfly::jailer {
namespace {

constexpr std::string_view kExecFlag = "--exec-fd=";
constexpr std::string_view kKeepFlag = "--keep-fd=";
constexpr std::string_view kEndOfFlags = "--";

Result<int> parse_descriptor(std::string_view flag, std::string_view text) {
  int descriptor = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), descriptor);
  if (error != std::errc() || end != text.data() + text.size() || descriptor < 3) {
    return fail({Code::kInvalidArgument, "DESCRIPTOR"},
                "%.*s%.*s: not a descriptor number from 3 on", static_cast<int>(flag.size()),
                flag.data(), static_cast<int>(text.size()), text.data());
  }
  return descriptor;
}

}  // namespace

Result<JailSpec> parse_arguments(std::span<const char* const> arguments) {
  JailSpec spec;
  size_t at = 0;
  for (; at < arguments.size() && arguments[at] != kEndOfFlags; ++at) {
    const std::string_view argument = arguments[at];
    if (argument.starts_with(kExecFlag)) {
      spec.exec_fd = TRY(parse_descriptor(kExecFlag, argument.substr(kExecFlag.size())));
    } else if (argument.starts_with(kKeepFlag)) {
      spec.kept.push_back(TRY(parse_descriptor(kKeepFlag, argument.substr(kKeepFlag.size()))));
    } else {
      return fail({Code::kInvalidArgument, "UNKNOWN_OPTION"}, "%s: unknown option", arguments[at]);
    }
  }
  for (++at; at < arguments.size(); ++at) spec.arguments.emplace_back(arguments[at]);
  if (spec.exec_fd < 0) {
    return fail({Code::kInvalidArgument, "NO_PROGRAM"}, "--exec-fd=N is missing");
  }
  if (spec.arguments.empty()) {
    return fail({Code::kInvalidArgument, "NO_ARGUMENTS"},
                "the program's own arguments (argv[0] at least) "
                "are missing behind --");
  }
  if (spec.kept.size() > kMaxKept) {
    return fail({Code::kInvalidArgument, "TOO_MANY"}, "--keep-fd: %zu are over the limit of %zu",
                spec.kept.size(), kMaxKept);
  }
  return spec;
}

}  // namespace mayfly::jailer
