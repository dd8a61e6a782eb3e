// SPDX-License-Identifier: Apache-2.0
// Two layers of an image, as they come out of their blobs: tars, one over the other. The first two
// bytes are the size of the lower one. What comes of it is a tree within its limits.
#include "image/layer.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <span>

using namespace mayfly;
using namespace mayfly::image;

namespace {

constexpr uint32_t kDepth = 20;

class Bytes : public Stream {
 public:
  explicit Bytes(std::span<const std::byte> bytes) : bytes_(bytes) {}
  Result<std::span<const std::byte>> next() override {
    return std::exchange(bytes_, std::span<const std::byte>());
  }

 private:
  std::span<const std::byte> bytes_;
};

void check(const Tree& tree, NodeId id, uint32_t depth, const Spool& spool) {
  const Attributes& node = tree.attributes(id);
  if (depth > kDepth) std::abort();
  uint64_t end = 0;
  for (const Extent& extent : node.extents) {
    if (extent.offset < end || extent.size > node.size - extent.offset) std::abort();
    if (extent.spool_offset + extent.size > spool.size()) std::abort();
    end = extent.offset + extent.size;
  }
  tree.for_each_child(id, [&](const std::string& name, NodeId child) {
    if (name.empty() || name == "." || name == ".." || name.size() > kMaxNameBytes ||
        name.find('/') != name.npos || name.starts_with(".wh.") ||
        node.type != NodeType::kDirectory) {
      std::abort();
    }
    check(tree, child, depth + 1, spool);
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(2);
  const size_t lower = std::min<size_t>(data[0] | data[1] << 8, bytes.size());
  auto spool = Spool::create(std::filesystem::temp_directory_path());
  if (!spool) std::abort();
  Limits limits;
  limits.entries = 200;
  limits.depth = kDepth;
  limits.metadata_bytes = 1 << 20;
  Tree tree(limits);
  uint64_t left_out = 0;
  for (const auto layer : {bytes.first(lower), bytes.subspan(lower)}) {
    Bytes stream(layer);
    if (!apply_layer(stream, tree, *spool, left_out)) break;
  }
  (void)tree.find("etc/passwd");
  check(tree, kRootNode, 0, *spool);
  return 0;
}
