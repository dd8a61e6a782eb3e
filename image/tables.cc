// SPDX-License-Identifier: Apache-2.0
#include "image/tables.h"

#include <algorithm>
#include <charconv>
#include <optional>

namespace mayfly::image {
namespace {

constexpr size_t kMaxGroups = 64;
constexpr uint32_t kNoId = 0xffffffff;

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  for (;;) {
    const size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == text.npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::optional<uint32_t> number(std::string_view text) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  if (value == kNoId) return std::nullopt;
  return value;
}

// What may be in a command's environment, in any encoding.
bool is_plain_path(std::string_view text) {
  return text.starts_with('/') && text.size() <= 1024 &&
         std::ranges::all_of(text, [](char c) { return c >= ' ' && c < 0x7f; });
}

// NAME:x:UID:GID:TEXT:HOME:SHELL
bool take_user(std::string_view passwd, std::string_view user, Identity& made, std::string& name) {
  const auto by_number = number(user);
  for (const std::string_view line : split(passwd, '\n')) {
    const auto fields = split(line, ':');
    if (fields.size() < 6) continue;
    const auto uid = number(fields[2]);
    const auto gid = number(fields[3]);
    if (!uid || !gid || (fields[0] != user && by_number != uid)) continue;
    made.uid = *uid;
    made.gid = *gid;
    if (is_plain_path(fields[5])) made.home = fields[5];
    name = fields[0];
    return true;
  }
  return false;
}

// NAME:x:GID:MEMBER,MEMBER
std::optional<uint32_t> find_group(std::string_view table, std::string_view group) {
  for (const std::string_view line : split(table, '\n')) {
    const auto fields = split(line, ':');
    if (fields.size() >= 3 && fields[0] == group) return number(fields[2]);
  }
  return number(group);
}

void take_groups(std::string_view table, const std::string& name, Identity& made) {
  for (const std::string_view line : split(table, '\n')) {
    const auto fields = split(line, ':');
    if (fields.size() < 4) continue;
    const auto gid = number(fields[2]);
    for (const std::string_view member : split(fields[3], ',')) {
      if (gid && member == name && made.groups.size() < kMaxGroups) made.groups.push_back(*gid);
    }
  }
}

std::unexpected<Error> unknown(const char* what, std::string_view name, const char* table) {
  return fail({Code::kFailedPrecondition, "IMAGE_USER"},
              "User: the %s \"%.64s\" is no number below 4294967295 and not in the image's %s",
              what, std::string(name).c_str(), table);
}

}  // namespace

Result<Identity> resolve_user(const std::string& user, std::string_view passwd,
                              std::string_view group) {
  const size_t colon = user.find(':');
  const std::string wanted = user.substr(0, colon);
  Identity made;
  std::string name;
  if (!take_user(passwd, wanted.empty() ? "0" : wanted, made, name) && !wanted.empty()) {
    const auto uid = number(wanted);
    if (!uid) return unknown("user", wanted, "/etc/passwd");
    made.uid = *uid;
  }
  if (colon == user.npos) {
    if (!name.empty()) take_groups(group, name, made);
    return made;
  }
  const std::string wanted_group = user.substr(colon + 1);
  const auto gid = find_group(group, wanted_group);
  if (!gid) return unknown("group", wanted_group, "/etc/group");
  made.gid = *gid;
  return made;
}

}  // namespace mayfly::image
