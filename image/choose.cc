// SPDX-License-Identifier: Apache-2.0
#include "image/choose.h"

#include "image/sha256.h"

#include <algorithm>
#include <array>
#include <span>
#include <string_view>
#include <utility>

namespace mayfly::image {
namespace {

constexpr int kMaxIndexDepth = 4;
constexpr size_t kMaxManifests = 256;

constexpr std::array<std::string_view, 2> kIndexTypes = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json"};
constexpr std::array<std::string_view, 2> kManifestTypes = {
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json"};
constexpr std::array<std::string_view, 2> kConfigTypes = {
    "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"};
constexpr std::array<std::string_view, 9> kLayerTypes = {
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd"};

template <size_t kCount>
bool is_one_of(const std::string& type, const std::array<std::string_view, kCount>& known) {
  return std::ranges::find(known, type) != known.end();
}

std::unexpected<Error> unknown_type(const char* what, const std::string& type) {
  return fail({Code::kUnimplemented, "IMAGE_MEDIA_TYPE"}, "mediaType of %s: \"%.200s\" is unknown",
              what, type.c_str());
}

std::string sha256_of(const std::string& text) {
  Sha256 sha;
  sha.add(std::as_bytes(std::span(text)));
  return sha.finish();
}

std::string blob_name(const std::string& sha256) { return "blobs/sha256/" + sha256; }

class Chooser {
 public:
  Chooser(Source& source, const std::string& ref, const std::string& architecture,
          const Limits& limits)
      : source_(source), ref_(ref), architecture_(architecture), limits_(limits) {}

  Result<ChosenImage> choose() {
    auto index = read("index.json");
    if (index) return choose_oci(*index);
    if (index.error().code() != Code::kNotFound) return std::unexpected(index.error());
    auto docker = read("manifest.json");
    if (docker) return choose_docker(*docker);
    if (docker.error().code() != Code::kNotFound) return std::unexpected(docker.error());
    return fail({Code::kInvalidArgument, "IMAGE_SOURCE"},
                "the source has neither an index.json (an OCI layout) nor a manifest.json (what "
                "`docker save` writes)");
  }

 private:
  struct Candidate {
    Descriptor descriptor;
    // Of the entry in index.json that led there.
    std::string ref_name;
  };

  Result<std::string> read(const std::string& name) {
    return read_text(TRY(source_.open(name)), name, limits_);
  }

  Result<std::string> read_blob(const Descriptor& blob) {
    const Part part = TRY(source_.open(blob_name(blob.sha256)));
    if (part.size != blob.size) {
      return fail({Code::kDataLoss, "IMAGE_SIZE"}, "blob %s: %llu bytes, where its size is %llu",
                  blob.sha256.c_str(), static_cast<unsigned long long>(part.size),
                  static_cast<unsigned long long>(blob.size));
    }
    std::string text = TRY(read_text(part, blob.sha256, limits_));
    if (const std::string found = sha256_of(text); found != blob.sha256) {
      return fail({Code::kDataLoss, "IMAGE_DIGEST"}, "blob %s: its digest is %s",
                  blob.sha256.c_str(), found.c_str());
    }
    return text;
  }

  Result<ChosenImage> choose_oci(const std::string& text) {
    std::vector<Candidate> candidates;
    for (const Descriptor& entry : TRY(parse_index(text)).manifests) {
      if (ref_.empty() || entry.ref_name == ref_) {
        TRY(gather(entry, entry.ref_name, 0, candidates));
      }
    }
    std::vector<ChosenImage> fitting;
    std::vector<std::string> others;
    std::string names;
    for (const Candidate& candidate : candidates) {
      ChosenImage image = TRY(take_manifest(candidate.descriptor));
      if (!fits(image.config)) {
        others.push_back(image.config.os + "/" + image.config.architecture);
        continue;
      }
      const auto same = [&](const ChosenImage& other) { return other.digest == image.digest; };
      if (std::ranges::any_of(fitting, same)) continue;
      fitting.push_back(std::move(image));
      names += (names.empty() ? "" : ", ") + ("\"" + candidate.ref_name + "\"");
    }
    return only_one(std::move(fitting), names, others);
  }

  Result<ChosenImage> only_one(std::vector<ChosenImage> fitting, const std::string& names,
                               const std::vector<std::string>& others) const {
    if (fitting.size() == 1) return std::move(fitting.front());
    if (fitting.size() > 1) {
      return fail({Code::kInvalidArgument, "IMAGE_AMBIGUOUS"},
                  "the source has %zu images for this host (%.400s); --ref names one",
                  fitting.size(), names.c_str());
    }
    const std::string ref = ref_.empty() ? "" : " named \"" + ref_ + "\"";
    return fail({Code::kNotFound, "IMAGE_PLATFORM"},
                "the source has no image%.200s for linux/%s%s%.200s", ref.c_str(),
                architecture_.c_str(), others.empty() ? "" : "; it has ",
                others.empty() ? "" : others.front().c_str());
  }

  // Manifests below an entry; those that say that they are for others are passed over unread, which
  // is all that is left of what is no image at all (attestations).
  Result<> gather(const Descriptor& entry, const std::string& ref_name, int depth,
                  std::vector<Candidate>& candidates) {
    if (is_one_of(entry.media_type, kIndexTypes)) {
      if (depth == kMaxIndexDepth) {
        return fail({Code::kResourceExhausted, "IMAGE_LIMIT"},
                    "depth of indexes: above the limit of %d", kMaxIndexDepth);
      }
      for (const Descriptor& below : TRY(parse_index(TRY(read_blob(entry)))).manifests) {
        const bool for_another = !below.os.empty() && !fits(below.os, below.architecture);
        if (!for_another) TRY(gather(below, ref_name, depth + 1, candidates));
      }
      return {};
    }
    if (!is_one_of(entry.media_type, kManifestTypes)) {
      return unknown_type("a manifest", entry.media_type);
    }
    if (candidates.size() == kMaxManifests) {
      return fail({Code::kResourceExhausted, "IMAGE_LIMIT"}, "manifests: above the limit of %zu",
                  kMaxManifests);
    }
    candidates.push_back({entry, ref_name});
    return {};
  }

  bool fits(const std::string& os, const std::string& architecture) const {
    return os == "linux" && architecture == architecture_;
  }
  bool fits(const ImageConfig& config) const { return fits(config.os, config.architecture); }

  Result<ChosenImage> take_manifest(const Descriptor& descriptor) {
    const Manifest manifest = TRY(parse_manifest(TRY(read_blob(descriptor))));
    if (!is_one_of(manifest.config.media_type, kConfigTypes)) {
      return unknown_type("the configuration", manifest.config.media_type);
    }
    ChosenImage made;
    made.digest = "sha256:" + descriptor.sha256;
    made.config = TRY(parse_image_config(TRY(read_blob(manifest.config))));
    TRY(check_layer_count(manifest.layers.size(), made.config));
    for (size_t i = 0; i < manifest.layers.size(); ++i) {
      const Descriptor& layer = manifest.layers[i];
      if (!is_one_of(layer.media_type, kLayerTypes)) {
        return unknown_type("a layer", layer.media_type);
      }
      made.layers.push_back({.name = blob_name(layer.sha256),
                             .sha256 = layer.sha256,
                             .size = layer.size,
                             .diff_id = made.config.diff_ids[i]});
    }
    return made;
  }

  Result<> check_layer_count(size_t count, const ImageConfig& config) const {
    if (count > limits_.layers) {
      return fail({Code::kResourceExhausted, "IMAGE_LIMIT"}, "layers: %zu is above the limit of %u",
                  count, limits_.layers);
    }
    if (count != config.diff_ids.size()) {
      return fail({Code::kDataLoss, "IMAGE_JSON"},
                  "layers: there are %zu, where the configuration's diff_ids say %zu", count,
                  config.diff_ids.size());
    }
    return {};
  }

  Result<ChosenImage> choose_docker(const std::string& text) {
    std::vector<ChosenImage> fitting;
    std::vector<std::string> others;
    std::string names;
    for (const DockerImage& image : TRY(parse_docker_manifest(text))) {
      const bool named =
          ref_.empty() || std::ranges::find(image.repo_tags, ref_) != image.repo_tags.end();
      if (!named) continue;
      ChosenImage made = TRY(take_docker(image));
      if (!fits(made.config)) {
        others.push_back(made.config.os + "/" + made.config.architecture);
        continue;
      }
      fitting.push_back(std::move(made));
      names += (names.empty() ? "\"" : ", \"") +
               (image.repo_tags.empty() ? "" : image.repo_tags.front()) + "\"";
    }
    return only_one(std::move(fitting), names, others);
  }

  Result<ChosenImage> take_docker(const DockerImage& image) {
    const std::string text = TRY(read(image.config_path));
    const std::string found = sha256_of(text);
    // Its name is its digest: HEX.json, or blobs/sha256/HEX.
    std::string name = image.config_path.substr(image.config_path.rfind('/') + 1);
    if (name.ends_with(".json")) name.resize(name.size() - 5);
    if (is_sha256_hex(name) && name != found) {
      return fail({Code::kDataLoss, "IMAGE_DIGEST"}, "%.200s: its digest is %s",
                  image.config_path.c_str(), found.c_str());
    }
    ChosenImage made;
    made.digest = "sha256:" + found;
    made.config = TRY(parse_image_config(text));
    TRY(check_layer_count(image.layer_paths.size(), made.config));
    for (size_t i = 0; i < image.layer_paths.size(); ++i) {
      made.layers.push_back({.name = image.layer_paths[i],
                             .sha256 = "",
                             .size = std::nullopt,
                             .diff_id = made.config.diff_ids[i]});
    }
    return made;
  }

  Source& source_;
  const std::string& ref_;
  const std::string& architecture_;
  const Limits& limits_;
};

}  // namespace

const char* host_architecture() {
#if defined(__x86_64__)
  return "amd64";
#elif defined(__aarch64__)
  return "arm64";
#else
#error "how do images spell this architecture?"
#endif
}

Result<ChosenImage> choose_image(Source& source, const std::string& ref,
                                 const std::string& architecture, const Limits& limits) {
  return Chooser(source, ref, architecture, limits).choose();
}

}  // namespace mayfly::image
