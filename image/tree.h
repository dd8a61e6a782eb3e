// SPDX-License-Identifier: Apache-2.0
//
// The files of an image while its layers are laid over one another: a tree in memory, whose regular
// files' bytes are in a Spool. A name of an image is a key in here and never a path of the host, so
// there is nothing on the host that `..`, an absolute name or a symbolic link could lead to.
//
// Everything that comes in is hostile. Whiteouts follow the OCI image specification (layer.md):
// they hide what lower layers have, wherever they stand in theirs. Links in the middle of a path
// are followed as a guest would, with `/` being the image's root.
#pragma once

#include "base/error.h"
#include "image/limits.h"

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mayfly::image {

enum class NodeType : uint8_t { kDirectory, kFile, kSymlink, kCharDevice, kBlockDevice, kFifo };

/// Bytes of a file, and where in the spool they are; between extents a file is zero.
struct Extent {
  uint64_t offset = 0;
  uint64_t spool_offset = 0;
  uint64_t size = 0;
};

struct Attributes {
  NodeType type = NodeType::kDirectory;
  uint16_t mode = 0755;  // Permission bits, setuid, setgid, sticky.
  uint32_t uid = 0;
  uint32_t gid = 0;
  int64_t mtime_s = 0;
  uint32_t mtime_ns = 0;
  uint32_t major = 0;
  uint32_t minor = 0;
  uint64_t size = 0;
  std::string target = {};
  /// Full names: "security.capability".
  std::map<std::string, std::string> xattrs = {};
  /// Ascending, not overlapping, below `size`.
  std::vector<Extent> extents = {};
};

/// How the names of whiteouts begin: none of the tree's does.
inline constexpr std::string_view kWhiteout = ".wh.";

using NodeId = uint32_t;
inline constexpr NodeId kRootNode = 0;

class Tree {
 public:
  explicit Tree(const Limits& limits);

  /// What follows is of the next layer.
  void begin_layer() { ++layer_; }

  /// Makes the node, and directories above it that are missing. A directory over a directory keeps
  /// what is in it; anything else takes the place of what was there.
  Result<> put(const std::string& path, Attributes attributes);
  /// One more name for a file, a link or a device that is there already.
  Result<> hard_link(const std::string& path, const std::string& target);
  /// Hides what lower layers have of that name. No such name: nothing.
  Result<> hide(const std::string& path);
  /// Hides all that lower layers have in that directory.
  Result<> hide_all_in(const std::string& path);
  /// A directory in the root that guests need, where there is none.
  void need_directory(const std::string& name, uint16_t mode);

  /// Links are followed, the last one too.
  std::optional<NodeId> find(const std::string& path);

  const Attributes& attributes(NodeId id) const { return nodes_[id].attributes; }
  /// In the order of names' bytes.
  void for_each_child(NodeId id,
                      const std::function<void(const std::string& name, NodeId child)>& f) const;
  NodeId parent(NodeId id) const { return nodes_[id].parent; }
  /// Above all NodeIds.
  size_t node_count() const { return nodes_.size(); }

 private:
  // The layer that a name is from. Of a directory what counts is the node's, which is also that of
  // the latest layer with anything below it.
  struct Child {
    NodeId id;
    uint32_t layer;
  };
  struct Node {
    Attributes attributes;
    std::map<std::string, Child, std::less<>> children;
    NodeId parent = kRootNode;
    uint32_t depth = 0;
    uint32_t layer = 0;
    // The last layer that hid everything below from the layers under it.
    uint32_t hidden_in = 0;
  };

  bool is_directory(NodeId id) const { return attributes(id).type == NodeType::kDirectory; }
  Result<NodeId> add(NodeId parent, std::string_view name, Attributes attributes);
  Result<> enter(NodeId parent, std::string_view name, NodeId id);
  Result<> charge(uint64_t metadata_bytes);
  void touch(NodeId directory);
  void hide_lower(NodeId directory);
  // The directory at the end of `names`; nullopt where it is missing and not to be made.
  Result<std::optional<NodeId>> walk(std::vector<std::string_view> names, bool make);

  const Limits limits_;
  // A deque: names of links stay where they are while nodes are added.
  std::deque<Node> nodes_;
  uint32_t layer_ = 0;
  uint64_t metadata_bytes_ = 0;
  uint64_t lookups_ = 0;
};

}  // namespace mayfly::image
