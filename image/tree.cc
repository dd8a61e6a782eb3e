// SPDX-License-Identifier: Apache-2.0
#include "image/tree.h"

#include <algorithm>

namespace mayfly::image {
namespace {

// For messages: names of an image are bytes from anywhere.
std::string shown(std::string_view name) {
  std::string text;
  for (const char c : name.substr(0, 200)) {
    text +=
        c >= ' ' && c < 0x7f ? std::string(1, c) : format("\\x%02x", static_cast<unsigned char>(c));
  }
  return name.size() > 200 ? text + "..." : text;
}

std::unexpected<Error> over_limit(const char* what, uint64_t limit) {
  return fail({Code::kResourceExhausted, "IMAGE_LIMIT"}, "%s: above the limit of %llu", what,
              static_cast<unsigned long long>(limit));
}

// Last name first, as walk() takes them.
void push_names(std::string_view path, std::vector<std::string_view>& names) {
  while (!path.empty()) {
    const size_t slash = path.rfind('/');
    const std::string_view name = slash == path.npos ? path : path.substr(slash + 1);
    if (!name.empty() && name != ".") names.push_back(name);
    path = slash == path.npos ? std::string_view() : path.substr(0, slash);
  }
}

// The names of an entry's path, last name first.
Result<std::vector<std::string_view>> names_of(const std::string& path) {
  if (path.size() > kMaxPathBytes) {
    return fail({Code::kResourceExhausted, "IMAGE_LIMIT"},
                "path %s: %zu bytes are above the limit of %zu", shown(path).c_str(), path.size(),
                kMaxPathBytes);
  }
  std::vector<std::string_view> names;
  push_names(path, names);
  for (const std::string_view name : names) {
    if (name == "..") {
      return fail({Code::kDataLoss, "IMAGE_PATH"}, "path %s: holds \"..\"", shown(path).c_str());
    }
    if (name.size() > kMaxNameBytes) {
      return fail({Code::kResourceExhausted, "IMAGE_LIMIT"},
                  "path %s: a name of %zu bytes is above the limit of %zu", shown(path).c_str(),
                  name.size(), kMaxNameBytes);
    }
  }
  return names;
}

std::unexpected<Error> not_a_directory(std::string_view name) {
  return fail({Code::kDataLoss, "IMAGE_PATH"}, "path: %s is not a directory", shown(name).c_str());
}

uint64_t metadata_size(const Attributes& attributes) {
  uint64_t size = attributes.target.size() + attributes.extents.size() * sizeof(Extent);
  for (const auto& [name, value] : attributes.xattrs) size += name.size() + value.size() + 64;
  return size;
}

}  // namespace

Tree::Tree(const Limits& limits) : limits_(limits) { nodes_.emplace_back(); }

Result<> Tree::put(const std::string& path, Attributes attributes) {
  std::vector<std::string_view> names = TRY(names_of(path));
  TRY(charge(metadata_size(attributes)));
  const bool directory = attributes.type == NodeType::kDirectory;
  if (names.empty()) {
    if (!directory) return not_a_directory("/");
    nodes_[kRootNode].attributes = std::move(attributes);
    return {};
  }
  const std::string_view name = names.front();
  names.erase(names.begin());
  const NodeId parent = *TRY(walk(std::move(names), true));
  const auto found = nodes_[parent].children.find(name);
  if (directory && found != nodes_[parent].children.end() && is_directory(found->second.id)) {
    const NodeId same = found->second.id;
    nodes_[same].attributes = std::move(attributes);
    touch(same);
    return {};
  }
  TRY(add(parent, name, std::move(attributes)));
  return {};
}

Result<> Tree::hard_link(const std::string& path, const std::string& target) {
  std::vector<std::string_view> names = TRY(names_of(path));
  std::vector<std::string_view> target_names = TRY(names_of(target));
  const auto missing = [&] {
    return fail({Code::kDataLoss, "IMAGE_PATH"}, "hard link %s: there is no file %s",
                shown(path).c_str(), shown(target).c_str());
  };
  if (names.empty() || target_names.empty()) return missing();
  const std::string_view target_name = target_names.front();
  target_names.erase(target_names.begin());
  const auto directory = TRY(walk(std::move(target_names), false));
  if (!directory) return missing();
  const auto found = nodes_[*directory].children.find(target_name);
  if (found == nodes_[*directory].children.end() || is_directory(found->second.id)) {
    return missing();
  }
  const NodeId id = found->second.id;
  const std::string_view name = names.front();
  names.erase(names.begin());
  return enter(*TRY(walk(std::move(names), true)), name, id);
}

Result<> Tree::hide(const std::string& path) {
  std::vector<std::string_view> names = TRY(names_of(path));
  if (names.empty()) return {};
  const std::string_view name = names.front();
  names.erase(names.begin());
  const auto parent = TRY(walk(std::move(names), false));
  if (!parent) return {};
  auto& children = nodes_[*parent].children;
  const auto found = children.find(name);
  if (found == children.end()) return {};
  const Child child = found->second;
  if (is_directory(child.id) && nodes_[child.id].layer == layer_) {
    hide_lower(child.id);
  } else if (is_directory(child.id) || child.layer < layer_) {
    children.erase(found);
  }
  return {};
}

Result<> Tree::hide_all_in(const std::string& path) {
  const auto directory = TRY(walk(TRY(names_of(path)), false));
  if (directory) hide_lower(*directory);
  return {};
}

void Tree::hide_lower(NodeId directory) {
  Node& node = nodes_[directory];
  // What came since is of this layer.
  if (node.hidden_in == layer_) return;
  node.hidden_in = layer_;
  std::erase_if(node.children, [&](const auto& entry) {
    const Child& child = entry.second;
    return (is_directory(child.id) ? nodes_[child.id].layer : child.layer) < layer_;
  });
  // Limits::depth bounds this.
  for (const auto& [name, child] : node.children) {
    if (is_directory(child.id)) hide_lower(child.id);
  }
}

void Tree::need_directory(const std::string& name, uint16_t mode) {
  if (nodes_[kRootNode].children.contains(name)) return;
  // A fresh name in the root can only fail by a limit: then the guest does without.
  (void)add(kRootNode, name, {.mode = mode});
}

std::optional<NodeId> Tree::find(const std::string& path) {
  auto names = names_of(path);
  if (!names) return std::nullopt;
  std::string rest;
  for (int links = 0; links <= kMaxLinksFollowed && !names->empty(); ++links) {
    const std::string_view name = names->front();
    names->erase(names->begin());
    auto directory = walk(*names, false);
    if (!directory || !*directory) return std::nullopt;
    const auto found = nodes_[**directory].children.find(name);
    if (found == nodes_[**directory].children.end()) return std::nullopt;
    const Attributes& node = attributes(found->second.id);
    if (node.type != NodeType::kSymlink) return found->second.id;
    // A relative target is taken from the directory the name was in, by its names.
    std::string base;
    for (auto it = names->rbegin(); it != names->rend(); ++it) (base += *it) += '/';
    std::string next = node.target.starts_with('/') ? node.target : base + node.target;
    rest = std::move(next);
    names->clear();
    push_names(rest, *names);
  }
  return std::nullopt;
}

void Tree::for_each_child(
    NodeId id, const std::function<void(const std::string& name, NodeId child)>& f) const {
  for (const auto& [name, child] : nodes_[id].children) f(name, child.id);
}

Result<NodeId> Tree::add(NodeId parent, std::string_view name, Attributes attributes) {
  if (nodes_.size() >= limits_.entries) return over_limit("entries", limits_.entries);
  const uint32_t depth = nodes_[parent].depth + 1;
  if (depth > limits_.depth) return over_limit("depth of directories", limits_.depth);
  const auto id = static_cast<NodeId>(nodes_.size());
  nodes_.push_back({.attributes = std::move(attributes),
                    .children = {},
                    .parent = parent,
                    .depth = depth,
                    .layer = layer_,
                    // All that will be in it is of this layer.
                    .hidden_in = layer_});
  TRY(enter(parent, name, id));
  return id;
}

Result<> Tree::enter(NodeId parent, std::string_view name, NodeId id) {
  if (name.starts_with(kWhiteout)) {
    return fail({Code::kDataLoss, "IMAGE_PATH"},
                "path: %s is a whiteout's name, and no directory's", shown(name).c_str());
  }
  TRY(charge(name.size() + 64));
  nodes_[parent].children.insert_or_assign(std::string(name), Child{id, layer_});
  touch(parent);
  return {};
}

Result<> Tree::charge(uint64_t metadata_bytes) {
  metadata_bytes_ += metadata_bytes;
  if (metadata_bytes_ <= limits_.metadata_bytes) return {};
  return over_limit("bytes of names, links and attributes", limits_.metadata_bytes);
}

void Tree::touch(NodeId directory) {
  // Whatever is of this layer has its directories above marked already.
  while (nodes_[directory].layer != layer_) {
    nodes_[directory].layer = layer_;
    directory = nodes_[directory].parent;
  }
}

Result<std::optional<NodeId>> Tree::walk(std::vector<std::string_view> names, bool make) {
  NodeId at = kRootNode;
  int links = 0;
  while (!names.empty()) {
    if (++lookups_ > limits_.lookups) return over_limit("names looked up", limits_.lookups);
    const std::string_view name = names.back();
    names.pop_back();
    if (name == "..") {  // Of a link; the root's parent is the root.
      at = nodes_[at].parent;
      continue;
    }
    const auto found = nodes_[at].children.find(name);
    if (found == nodes_[at].children.end()) {
      if (!make) return std::nullopt;
      if (name.size() > kMaxNameBytes) return over_limit("bytes of a name", kMaxNameBytes);
      at = TRY(add(at, name, Attributes{}));
      continue;
    }
    const NodeId next = found->second.id;
    if (is_directory(next)) {
      at = next;
    } else if (attributes(next).type != NodeType::kSymlink) {
      if (!make) return std::nullopt;
      return not_a_directory(name);
    } else {
      if (++links > kMaxLinksFollowed) return over_limit("links in a path", kMaxLinksFollowed);
      if (attributes(next).target.starts_with('/')) at = kRootNode;
      push_names(attributes(next).target, names);
    }
  }
  return at;
}

}  // namespace mayfly::image
