// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/cmdline.h"

#include <algorithm>

namespace mayfly::guest {
namespace {

constexpr std::string_view kDevices = "/dev/";
constexpr size_t kMaxHostname = 64;
constexpr size_t kMaxRootTypes = 8;

bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

// The next word with its quotes removed; false at the end of the line.
bool next_word(std::string_view& rest, std::string& word) {
  size_t at = 0;
  while (at < rest.size() && is_space(rest[at])) ++at;
  if (at == rest.size()) return false;
  word.clear();
  bool quoted = false;
  for (; at < rest.size() && (quoted || !is_space(rest[at])); ++at) {
    if (rest[at] == '"') {
      quoted = !quoted;
    } else {
      word.push_back(rest[at]);
    }
  }
  rest.remove_prefix(at);
  return true;
}

Result<> set_root(BootOptions& options, std::string_view value) {
  const std::string_view name = value.substr(std::min(kDevices.size(), value.size()));
  if (!value.starts_with(kDevices) || name.empty() || name.find('/') != name.npos ||
      name[0] == '.') {
    return fail({Code::kInvalidArgument, "ROOT_DEVICE"},
                "root=%.64s: only a device directly under /dev is understood, as /dev/vda",
                std::string(value).c_str());
  }
  options.root = value;
  return {};
}

Result<> set_root_types(BootOptions& options, std::string_view value) {
  options.root_types.clear();
  while (!value.empty()) {
    const size_t comma = std::min(value.find(','), value.size());
    if (comma > 0) options.root_types.emplace_back(value.substr(0, comma));
    value.remove_prefix(std::min(comma + 1, value.size()));
    if (options.root_types.size() > kMaxRootTypes) {
      return fail({Code::kInvalidArgument, "ROOT_TYPES"}, "rootfstype= names more than %zu types",
                  kMaxRootTypes);
    }
  }
  return {};
}

Result<> set_hostname(BootOptions& options, std::string_view value) {
  const bool plain = std::ranges::all_of(value, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_';
  });
  if (value.empty() || value.size() > kMaxHostname || !plain) {
    return fail({Code::kInvalidArgument, "HOSTNAME"},
                "mayfly.hostname= must be 1 to %zu letters, digits, '-', '_' or '.'", kMaxHostname);
  }
  options.hostname = value;
  return {};
}

Result<> set_init(BootOptions& options, std::string_view value) {
  if (!value.starts_with('/')) {
    return fail({Code::kInvalidArgument, "INIT_PATH"},
                "mayfly.init=%.64s: must be an absolute path", std::string(value).c_str());
  }
  options.init = value;
  return {};
}

Result<> apply_word(BootOptions& options, std::string_view word) {
  const size_t equals = word.find('=');
  if (equals == word.npos) {
    if (word == "rw") options.root_writable = true;
    if (word == "ro") options.root_writable = false;
    return {};
  }
  const std::string_view key = word.substr(0, equals);
  const std::string_view value = word.substr(equals + 1);
  if (key == "root") return set_root(options, value);
  if (key == "rootfstype") return set_root_types(options, value);
  if (key == "mayfly.hostname") return set_hostname(options, value);
  if (key == "mayfly.init") return set_init(options, value);
  if (key == "rootflags") options.root_flags = value;
  return {};
}

}  // namespace

Result<BootOptions> parse_cmdline(std::string_view line) {
  if (line.size() > kMaxCmdlineBytes) {
    return fail({Code::kInvalidArgument, "CMDLINE_SIZE"},
                "command line: %zu bytes, the limit is %zu", line.size(), kMaxCmdlineBytes);
  }
  if (line.find('\0') != line.npos) {
    return fail({Code::kInvalidArgument, "CMDLINE_NUL"}, "command line: contains a zero byte");
  }
  BootOptions options;
  std::string word;
  while (next_word(line, word) && word != "--") TRY(apply_word(options, word));
  return options;
}

}  // namespace mayfly::guest
