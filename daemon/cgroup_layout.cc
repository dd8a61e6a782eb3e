// SPDX-License-Identifier: Apache-2.0
#include "daemon/cgroup_layout.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <sstream>
#include <vector>

namespace mayfly::daemon {

namespace {

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream in(text);
  for (std::string part; std::getline(in, part, separator);) parts.push_back(part);
  return parts;
}

bool holds(const std::vector<std::string>& words, const std::string& word) {
  return std::find(words.begin(), words.end(), word) != words.end();
}

/// Our path as /proc/self/cgroup has it, seen from a mount whose root is `mount_root`.
std::optional<std::string> below(const std::string& path, const std::string& mount_root) {
  if (path.empty() || path[0] != '/' || path.starts_with("/..")) return std::nullopt;
  if (mount_root == "/") return path;
  if (path == mount_root) return "/";
  if (path.starts_with(mount_root + "/")) return path.substr(mount_root.size());
  return std::nullopt;
}

std::string read_file(const char* path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

const char* controller_name(Controller controller, int version) {
  switch (controller) {
    case Controller::kCpu:
      return "cpu";
    case Controller::kMemory:
      return "memory";
    case Controller::kPids:
      return "pids";
    case Controller::kIo:
      return version == 1 ? "blkio" : "io";
  }
  return "?";
}

CgroupLayout parse_cgroup_layout(const std::string& mountinfo, const std::string& self_cgroup) {
  // "5:cpu,cpuacct:/a/b" and, of version 2, "0::/a/b".
  std::map<std::string, std::string> own;
  for (const std::string& line : split(self_cgroup, '\n')) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string names = line.substr(first + 1, second - first - 1);
    for (const std::string& name : split(names, ',')) own[name] = line.substr(second + 1);
    if (names.empty()) own[""] = line.substr(second + 1);
  }
  CgroupLayout layout;
  // "36 25 0:31 ROOT MOUNT_POINT OPTIONS [TAG]... - TYPE SOURCE SUPER_OPTIONS"; the first mount of
  // a tree in which we are visible is taken.
  for (const std::string& line : split(mountinfo, '\n')) {
    const std::vector<std::string> words = split(line, ' ');
    const auto dash = std::find(words.begin(), words.end(), "-");
    if (words.size() < 6 || words.end() - dash < 4) continue;
    const bool unified = dash[1] == "cgroup2";
    if (!unified && dash[1] != "cgroup") continue;
    const std::vector<std::string> options = split(dash[3], ',');
    const auto add = [&](CgroupTree& tree, const std::string& name) {
      if (tree.version != 0 || !own.contains(name)) return;
      const auto path = below(own[name], words[3]);
      if (!path) return;
      tree = {.version = unified ? 2 : 1,
              .mount_point = words[4],
              .own = *path,
              .favors_dynamic_mods = holds(options, "favordynmods")};
    };
    if (unified) {
      add(layout.unified, "");
      continue;
    }
    for (const Controller controller : kControllers) {
      const std::string name = controller_name(controller, 1);
      if (holds(options, name)) add(layout.v1[static_cast<size_t>(controller)], name);
    }
  }
  return layout;
}

CgroupLayout read_cgroup_layout() {
  return parse_cgroup_layout(read_file("/proc/self/mountinfo"), read_file("/proc/self/cgroup"));
}

}  // namespace mayfly::daemon
