// SPDX-License-Identifier: Apache-2.0
#include "image/layer.h"

#include <algorithm>
#include <array>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include <archive.h>
#include <archive_entry.h>

namespace mayfly::image {
namespace {

constexpr std::string_view kOpaque = ".wh..wh..opq";
// Others with this beginning are aufs's own.
constexpr std::string_view kAufs = ".wh..wh.";
constexpr int64_t kMaxFileBytes = (int64_t{1} << 44) - 4096;  // ext4's, with blocks of 4 KiB.
constexpr size_t kMaxExtents = 1'000'000;

std::unexpected<Error> bad_entry(const std::string& path, const char* what, int64_t value,
                                 int64_t limit) {
  return fail({Code::kDataLoss, "IMAGE_ENTRY"},
              "%s of an entry: %lld is not from 0 to %lld (%.100s)", what,
              static_cast<long long>(value), static_cast<long long>(limit), path.c_str());
}

std::string_view base_name(std::string_view path) {
  while (path.ends_with('/')) path.remove_suffix(1);
  return path.substr(path.rfind('/') + 1);
}

Result<NodeType> type_of(archive_entry* entry) {
  switch (archive_entry_filetype(entry)) {
    case AE_IFDIR:
      return NodeType::kDirectory;
    case AE_IFREG:
      return NodeType::kFile;
    case AE_IFLNK:
      return NodeType::kSymlink;
    case AE_IFCHR:
      return NodeType::kCharDevice;
    case AE_IFBLK:
      return NodeType::kBlockDevice;
    case AE_IFIFO:
      return NodeType::kFifo;
    default:
      return fail({Code::kUnimplemented, "IMAGE_ENTRY"},
                  "type of an entry: %o is no file, directory, link, device or pipe",
                  archive_entry_filetype(entry));
  }
}

// Whole blocks of a tar. Some tools (umoci's insert) end a layer with the last file's bytes,
// without what fills up their block.
class WholeBlocks : public Stream {
 public:
  explicit WholeBlocks(Stream& in) : in_(in) {}

  Result<std::span<const std::byte>> next() override {
    const auto bytes = TRY(in_.next());
    given_ += bytes.size();
    if (!bytes.empty() || ended_) return bytes;
    ended_ = true;
    return std::span(kZeros).first((kZeros.size() - given_ % kZeros.size()) % kZeros.size());
  }
  /// Whether the layer has a byte there.
  bool has(uint64_t end) const { return !ended_ || end <= given_; }

 private:
  static constexpr std::array<std::byte, 512> kZeros = {};

  Stream& in_;
  uint64_t given_ = 0;
  bool ended_ = false;
};

class LayerReader {
 public:
  LayerReader(Stream& in, Tree& tree, Spool& spool, uint64_t& left_out)
      : in_(in),
        blocks_(in),
        archive_(blocks_, Archive::Kind::kTar),
        tree_(tree),
        spool_(spool),
        left_out_(left_out) {}

  Result<> apply() {
    tree_.begin_layer();
    TRY(archive_.open());
    archive_entry* entry = nullptr;
    while (TRY(archive_.check(archive_read_next_header(archive_.get(), &entry)))) {
      TRY(apply_entry(entry));
    }
    return in_.drain();
  }

 private:
  Result<> apply_entry(archive_entry* entry) {
    const char* const path_text = archive_entry_pathname(entry);
    if (path_text == nullptr) {
      return fail({Code::kDataLoss, "IMAGE_ENTRY"}, "path of an entry: there is none");
    }
    const std::string path = path_text;
    const std::string_view name = base_name(path);
    if (name.starts_with(kWhiteout)) return apply_whiteout(path, name);
    if (const char* target = archive_entry_hardlink(entry); target != nullptr) {
      return tree_.hard_link(path, target);
    }
    Attributes attributes = TRY(attributes_of(entry, path));
    if (attributes.type == NodeType::kFile) TRY(read_data(path, attributes));
    return tree_.put(path, std::move(attributes));
  }

  Result<> apply_whiteout(const std::string& path, std::string_view name) {
    const std::string directory = path.substr(0, path.rfind(name));
    if (name == kOpaque) return tree_.hide_all_in(directory);
    if (name.starts_with(kAufs)) return {};
    const std::string hidden(name.substr(kWhiteout.size()));
    if (hidden.empty() || hidden == "." || hidden == "..") {
      return fail({Code::kDataLoss, "IMAGE_PATH"}, "whiteout: \"%.100s\" names no file",
                  path.c_str());
    }
    return tree_.hide(directory + hidden);
  }

  Result<Attributes> attributes_of(archive_entry* entry, const std::string& path) {
    constexpr int64_t kMaxId = 0xfffffffe;  // -1 means "no change" to chown(2).
    Attributes made;
    made.type = TRY(type_of(entry));
    made.mode = static_cast<uint16_t>(archive_entry_perm(entry) & 07777);
    const int64_t uid = archive_entry_uid(entry);
    const int64_t gid = archive_entry_gid(entry);
    const int64_t size = archive_entry_size(entry);
    if (uid < 0 || uid > kMaxId) return bad_entry(path, "uid", uid, kMaxId);
    if (gid < 0 || gid > kMaxId) return bad_entry(path, "gid", gid, kMaxId);
    if (size < 0 || size > kMaxFileBytes) return bad_entry(path, "size", size, kMaxFileBytes);
    made.uid = static_cast<uint32_t>(uid);
    made.gid = static_cast<uint32_t>(gid);
    if (made.type == NodeType::kFile) made.size = static_cast<uint64_t>(size);
    made.mtime_s = archive_entry_mtime(entry);
    made.mtime_ns =
        static_cast<uint32_t>(std::clamp(archive_entry_mtime_nsec(entry), 0L, 999999999L));
    if (made.type == NodeType::kSymlink) TRY(take_target(entry, path, made));
    if (made.type == NodeType::kCharDevice || made.type == NodeType::kBlockDevice) {
      constexpr int64_t kMaxMajor = (1 << 12) - 1;
      constexpr int64_t kMaxMinor = (1 << 20) - 1;
      const auto major = static_cast<int64_t>(archive_entry_rdevmajor(entry));
      const auto minor = static_cast<int64_t>(archive_entry_rdevminor(entry));
      if (major < 0 || major > kMaxMajor) return bad_entry(path, "device major", major, kMaxMajor);
      if (minor < 0 || minor > kMaxMinor) return bad_entry(path, "device minor", minor, kMaxMinor);
      made.major = static_cast<uint32_t>(major);
      made.minor = static_cast<uint32_t>(minor);
    }
    take_xattrs(entry, made);
    return made;
  }

  Result<> take_target(archive_entry* entry, const std::string& path, Attributes& made) {
    const char* const target = archive_entry_symlink(entry);
    const size_t size = target == nullptr ? 0 : std::char_traits<char>::length(target);
    if (size == 0 || size > kMaxTargetBytes) {
      return fail({Code::kResourceExhausted, "IMAGE_LIMIT"},
                  "target of a link: %zu bytes are not from 1 to the limit of %zu (%.100s)", size,
                  kMaxTargetBytes, path.c_str());
    }
    made.target = target;
    return {};
  }

  void take_xattrs(archive_entry* entry, Attributes& made) {
    archive_entry_xattr_reset(entry);
    const char* name = nullptr;
    const void* value = nullptr;
    size_t size = 0;
    std::set<std::string, std::less<>> left_out;  // Archives may say one twice, by two conventions.
    while (archive_entry_xattr_next(entry, &name, &value, &size) == ARCHIVE_OK) {
      const std::string_view text = name == nullptr ? "" : name;
      const bool known = text.starts_with("user.") || text.starts_with("trusted.") ||
                         text.starts_with("security.");
      if (known && text.find('.') + 1 < text.size()) {
        made.xattrs[std::string(text)].assign(static_cast<const char*>(value), size);
      } else {
        left_out.emplace(text);
      }
    }
    left_out_ += left_out.size();
  }

  Result<> read_data(const std::string& path, Attributes& made) {
    const auto start = static_cast<uint64_t>(archive_filter_bytes(archive_.get(), -1));
    uint64_t end = 0;
    uint64_t count = 0;
    for (Archive::Block block; TRY(archive_.next_block(block));) {
      if (block.bytes.empty()) continue;
      if (block.offset < end || block.offset > made.size ||
          block.bytes.size() > made.size - block.offset) {
        return fail({Code::kDataLoss, "IMAGE_ENTRY"},
                    "data of an entry: %zu bytes at %llu are not within its size of %llu (%.100s)",
                    block.bytes.size(), static_cast<unsigned long long>(block.offset),
                    static_cast<unsigned long long>(made.size), path.c_str());
      }
      count += block.bytes.size();
      const uint64_t place = TRY(spool_.append(block.bytes));
      Extent* const last = made.extents.empty() ? nullptr : &made.extents.back();
      if (last != nullptr && block.offset == end && place == last->spool_offset + last->size) {
        last->size += block.bytes.size();
      } else if (made.extents.size() == kMaxExtents) {
        return fail({Code::kResourceExhausted, "IMAGE_LIMIT"},
                    "pieces of a sparse file: above the limit of %zu (%.100s)", kMaxExtents,
                    path.c_str());
      } else {
        made.extents.push_back({block.offset, place, block.bytes.size()});
      }
      end = block.offset + block.bytes.size();
    }
    if (!blocks_.has(start + count)) {
      return fail({Code::kDataLoss, "IMAGE_ARCHIVE"}, "tar: ends within a file (%.100s)",
                  path.c_str());
    }
    return {};
  }

  Stream& in_;
  WholeBlocks blocks_;
  Archive archive_;
  Tree& tree_;
  Spool& spool_;
  uint64_t& left_out_;
};

}  // namespace

Result<> apply_layer(Stream& in, Tree& tree, Spool& spool, uint64_t& attributes_left_out) {
  return LayerReader(in, tree, spool, attributes_left_out).apply();
}

}  // namespace mayfly::image
