// SPDX-License-Identifier: Apache-2.0
#include "image/import.h"

#include "image/choose.h"
#include "image/ext4_sys.h"
#include "image/layer.h"
#include "image/sha256.h"
#include "image/source.h"
#include "image/tables.h"
#include "image/tree.h"

#include <algorithm>
#include <charconv>
#include <span>
#include <utility>

namespace mayfly::image {
namespace {

constexpr uint64_t kMaxSizeMib = uint64_t{8} << 20;
constexpr uint64_t kMaxTableBytes = 1 << 20;

class Importer {
 public:
  Importer(Source& source, Spool spool, const Limits& limits)
      : source_(source), limits_(limits), tree_(limits), spool_(std::move(spool)) {}

  Result<> add_layer(const LayerPart& layer) {
    const Part part = TRY(source_.open(layer.name));
    if (layer.size && *layer.size != part.size) {
      return fail({Code::kDataLoss, "IMAGE_SIZE"}, "%llu bytes, where its size is %llu",
                  static_cast<unsigned long long>(part.size),
                  static_cast<unsigned long long>(*layer.size));
    }
    FileStream bytes(part.file, part.offset, part.size);
    Decompressor tar(bytes, limits_.content_bytes - content_bytes_);
    const Result<> applied = apply_layer(tar, tree_, spool_, attributes_left_out_);
    if (!applied && applied.error().reason() == "NO_SPACE") return applied;
    // Bytes that are not those that are meant explain whatever else is wrong with them.
    TRY(bytes.drain());
    const std::string digest = bytes.digest();
    if (!layer.sha256.empty() && digest != layer.sha256) {
      return fail({Code::kDataLoss, "IMAGE_DIGEST"}, "its digest is %s", digest.c_str());
    }
    TRY(applied);
    content_bytes_ += tar.bytes_given();
    if (const std::string inside = tar.digest(); inside != layer.diff_id) {
      return fail({Code::kDataLoss, "IMAGE_DIGEST"},
                  "the digest of what is inside is %s, where diff_ids say %s", inside.c_str(),
                  layer.diff_id.c_str());
    }
    return {};
  }

  // Where a guest mounts something; images leave them out as container engines make them, too.
  void add_mount_points() {
    for (const char* name : {"dev", "proc", "sys", "run"}) tree_.need_directory(name, 0755);
    tree_.need_directory("tmp", 01777);
  }

  Result<> write(const std::string& path, const ChosenImage& chosen, uint64_t size_mib,
                 ImageRecord& record) {
    Ext4Options options{.size_bytes = size_mib << 20};
    // Two digits of the digest for each byte; the digest begins with "sha256:".
    for (size_t i = 0; i < options.uuid.size(); ++i) {
      const char* const digits = chosen.digest.data() + 7 + 2 * i;
      std::from_chars(digits, digits + 2, options.uuid[i], 16);
    }
    const Identity who = TRY(
        resolve_user(chosen.config.execution.user, text_of("etc/passwd"), text_of("etc/group")));
    const Ext4Size size = TRY(write_ext4(path, tree_, spool_.file(), options));
    record = {.digest = chosen.digest,
              .architecture = chosen.config.architecture,
              .execution = chosen.config.execution,
              .uid = who.uid,
              .gid = who.gid,
              .groups = who.groups,
              .home = who.home,
              .size_bytes = size.size_bytes,
              .content_bytes = size.content_bytes,
              .files = size.files};
    return {};
  }

  uint64_t attributes_left_out() const { return attributes_left_out_; }

 private:
  // A table of the image; empty where it has none that is worth reading.
  std::string text_of(const std::string& path) {
    const auto id = tree_.find(path);
    if (!id) return "";
    const Attributes& file = tree_.attributes(*id);
    if (file.type != NodeType::kFile || file.size > kMaxTableBytes) return "";
    std::string text(file.size, '\0');
    for (const Extent& extent : file.extents) {
      const auto piece = std::span(text).subspan(extent.offset, extent.size);
      if (!pread_exact(spool_.file(), std::as_writable_bytes(piece), extent.spool_offset))
        return "";
    }
    return text;
  }

  Source& source_;
  const Limits& limits_;
  Tree tree_;
  Spool spool_;
  uint64_t content_bytes_ = 0;
  uint64_t attributes_left_out_ = 0;
};

Result<> check_request(const ImportRequest& request) {
  if (!is_image_name(request.name)) {
    return fail({Code::kInvalidArgument, "IMAGE_NAME"},
                "--name: \"%.100s\" is no name: [a-z0-9][a-z0-9-_.]{0,62}", request.name.c_str());
  }
  if (request.size_mib > kMaxSizeMib) {
    return fail({Code::kInvalidArgument, "IMAGE_SIZE_MIB"},
                "--size: %llu MiB is above the limit of %llu",
                static_cast<unsigned long long>(request.size_mib),
                static_cast<unsigned long long>(kMaxSizeMib));
  }
  return {};
}

}  // namespace

Result<Imported> import_image(const Store& store, Draft draft, const ImportRequest& request,
                              const Limits& limits) {
  TRY(check_request(request));
  const auto source = TRY(open_source(request.source, draft.path(), limits));
  const ChosenImage chosen = TRY(choose_image(*source, request.ref, host_architecture(), limits));
  Importer importer(*source, TRY(Spool::create(draft.path())), limits);
  for (size_t i = 0; i < chosen.layers.size(); ++i) {
    if (auto added = importer.add_layer(chosen.layers[i]); !added) {
      return std::unexpected(std::move(added).error().with_context(format(
          "layer %zu of %zu, %.200s", i + 1, chosen.layers.size(), chosen.layers[i].name.c_str())));
    }
  }
  importer.add_mount_points();
  Imported made;
  TRY(importer.write(draft.path() + "/rootfs.ext4", chosen, request.size_mib, made.record));
  made.attributes_left_out = importer.attributes_left_out();
  TRY(store.publish(std::move(draft), request.name, made.record));
  return made;
}

}  // namespace mayfly::image
