// SPDX-License-Identifier: Apache-2.0
#include "jailer/jail_spec.h"

#include <array>
#include <charconv>
#include <string_view>
#include <utility>

namespace mayfly::jailer {
namespace {

constexpr std::string_view kEndOfFlags = "--";
constexpr uint64_t kNoChange = 0xffff'ffff;

constexpr std::string_view kMode = "--mode=";
constexpr std::string_view kExec = "--exec-fd=";
constexpr std::string_view kKeep = "--keep-fd=";
constexpr std::string_view kProcSelf = "--proc-self-fd=";
constexpr std::string_view kUid = "--uid=";
constexpr std::string_view kGid = "--gid=";
constexpr std::string_view kCgroup = "--cgroup-procs-fd=";
constexpr std::string_view kMount = "--mount-namespace-fd=";
constexpr std::string_view kMaxFile = "--max-file-bytes=";
constexpr std::string_view kNetwork = "--network-namespace-fd=";

constexpr std::array<std::pair<std::string_view, JailMode>, 3> kModes = {{
    {"root", JailMode::kRoot},
    {"user", JailMode::kUser},
    {"off", JailMode::kOff},
}};

template <typename T>
bool parse_number(std::string_view text, T& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

Result<int> parse_descriptor(const char* argument, std::string_view text) {
  int descriptor = -1;
  if (!parse_number(text, descriptor) || descriptor < 3) {
    return fail({Code::kInvalidArgument, "DESCRIPTOR"}, "%s: not a descriptor number from 3 on",
                argument);
  }
  return descriptor;
}

Result<uint32_t> parse_id(const char* argument, std::string_view text) {
  uint64_t id = 0;
  // kUser tells who we are, and that may be root: only check_spec() knows.
  if (!parse_number(text, id) || id >= kNoChange) {
    return fail({Code::kInvalidArgument, "ID"}, "%s: not a number from 0 to 4294967294", argument);
  }
  return static_cast<uint32_t>(id);
}

Result<uint64_t> parse_bytes(const char* argument, std::string_view text) {
  uint64_t bytes = 0;
  if (!parse_number(text, bytes)) {
    return fail({Code::kInvalidArgument, "BYTES"}, "%s: not a number of bytes", argument);
  }
  return bytes;
}

Result<JailMode> parse_mode(const char* argument, std::string_view text) {
  for (const auto& [name, mode] : kModes) {
    if (name == text) return mode;
  }
  return fail({Code::kInvalidArgument, "MODE"}, "%s: none of root, user, off", argument);
}

Result<> parse_option(const char* argument, JailSpec& spec) {
  const std::string_view text = argument;
  const auto value = text.substr(std::min(text.find('=') + 1, text.size()));
  if (text.starts_with(kMode)) {
    spec.mode = TRY(parse_mode(argument, value));
  } else if (text.starts_with(kExec)) {
    spec.exec_fd = TRY(parse_descriptor(argument, value));
  } else if (text.starts_with(kKeep)) {
    spec.kept.push_back(TRY(parse_descriptor(argument, value)));
  } else if (text.starts_with(kProcSelf)) {
    spec.proc_self = TRY(parse_descriptor(argument, value));
  } else if (text.starts_with(kUid)) {
    spec.uid = TRY(parse_id(argument, value));
  } else if (text.starts_with(kGid)) {
    spec.gid = TRY(parse_id(argument, value));
  } else if (text.starts_with(kCgroup)) {
    spec.cgroup_procs.push_back(TRY(parse_descriptor(argument, value)));
  } else if (text.starts_with(kMaxFile)) {
    spec.max_file_bytes = TRY(parse_bytes(argument, value));
  } else if (text.starts_with(kMount)) {
    spec.mount_namespace = TRY(parse_descriptor(argument, value));
  } else if (text.starts_with(kNetwork)) {
    spec.network_namespace = TRY(parse_descriptor(argument, value));
  } else {
    return fail({Code::kInvalidArgument, "UNKNOWN_OPTION"}, "%s: unknown option", argument);
  }
  return {};
}

Result<> check_spec(const JailSpec& spec) {
  if (spec.exec_fd < 0) {
    return fail({Code::kInvalidArgument, "NO_PROGRAM"}, "--exec-fd=N is missing");
  }
  if (spec.arguments.empty()) {
    return fail({Code::kInvalidArgument, "NO_ARGUMENTS"},
                "the program's own arguments (argv[0] at least) are missing behind --");
  }
  if (spec.kept.size() > kMaxKept) {
    return fail({Code::kInvalidArgument, "TOO_MANY"}, "--keep-fd: %zu are over the limit of %zu",
                spec.kept.size(), kMaxKept);
  }
  if (spec.cgroup_procs.size() > kMaxCgroupProcs) {
    return fail({Code::kInvalidArgument, "TOO_MANY"},
                "--cgroup-procs-fd: %zu are over the limit of %zu", spec.cgroup_procs.size(),
                kMaxCgroupProcs);
  }
  if (spec.mode == JailMode::kOff && spec.proc_self >= 0) {
    return fail({Code::kInvalidArgument, "PROC_SELF"},
                "--proc-self-fd=%d: with --mode=off the program has /proc", spec.proc_self);
  }
  if (spec.mode == JailMode::kRoot) {
    TRY(check_id("--uid", spec.uid));
    TRY(check_id("--gid", spec.gid));
  } else if (spec.mount_namespace >= 0 || spec.network_namespace >= 0) {
    return fail({Code::kInvalidArgument, "NAMESPACES"},
                "shared namespaces can be joined with --mode=root only");
  }
  return {};
}

}  // namespace

Result<uint32_t> check_id(const char* name, uint64_t id) {
  if (id == 0 || id >= kNoChange) {
    return fail({Code::kInvalidArgument, "ID"}, "%s: %llu is not from 1 to 4294967294", name,
                static_cast<unsigned long long>(id));
  }
  return static_cast<uint32_t>(id);
}

Result<JailSpec> parse_arguments(std::span<const char* const> arguments) {
  JailSpec spec;
  size_t at = 0;
  for (; at < arguments.size() && arguments[at] != kEndOfFlags; ++at) {
    TRY(parse_option(arguments[at], spec));
  }
  for (++at; at < arguments.size(); ++at) spec.arguments.emplace_back(arguments[at]);
  TRY(check_spec(spec));
  return spec;
}

std::vector<std::string> format_arguments(const JailSpec& spec) {
  std::vector<std::string> arguments;
  const auto add = [&](std::string_view flag, uint64_t value) {
    arguments.push_back(std::string(flag) + std::to_string(value));
  };
  const auto add_descriptor = [&](std::string_view flag, int descriptor) {
    if (descriptor >= 0) add(flag, static_cast<uint64_t>(descriptor));
  };
  for (const auto& [name, mode] : kModes) {
    if (mode == spec.mode) arguments.push_back(std::string(kMode) + std::string(name));
  }
  add_descriptor(kExec, spec.exec_fd);
  for (const int descriptor : spec.kept) add_descriptor(kKeep, descriptor);
  add_descriptor(kProcSelf, spec.proc_self);
  if (spec.mode != JailMode::kOff) {
    add(kUid, spec.uid);
    add(kGid, spec.gid);
    if (spec.max_file_bytes) add(kMaxFile, *spec.max_file_bytes);
  }
  for (const int descriptor : spec.cgroup_procs) add_descriptor(kCgroup, descriptor);
  add_descriptor(kMount, spec.mount_namespace);
  add_descriptor(kNetwork, spec.network_namespace);
  arguments.emplace_back(kEndOfFlags);
  arguments.insert(arguments.end(), spec.arguments.begin(), spec.arguments.end());
  return arguments;
}

}  // namespace mayfly::jailer
