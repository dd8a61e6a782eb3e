// SPDX-License-Identifier: Apache-2.0
//
// The JSON of images as plain, checked values: that of OCI layouts and of `docker save`, and our
// own record of an image in the store. All of it is hostile. Fields that we do not know are passed
// over, as the specification wants; a field of the wrong type is IMAGE_JSON and names it.
#pragma once

#include "base/error.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly::image {

/// Of a blob (image-spec/descriptor.md).
struct Descriptor {
  std::string media_type;
  /// The 64 digits behind "sha256:".
  std::string sha256;
  uint64_t size = 0;
  /// Empty where the descriptor does not say.
  std::string os;
  std::string architecture;
  std::string ref_name;
};

struct Index {
  std::vector<Descriptor> manifests;
};

struct Manifest {
  Descriptor config;
  std::vector<Descriptor> layers;
};

/// What a command of the image runs with.
struct Execution {
  std::vector<std::string> entrypoint;
  std::vector<std::string> cmd;
  std::vector<std::string> env;  // KEY=VALUE
  std::string working_dir;
  std::string user;
};

struct ImageConfig {
  std::string os;
  std::string architecture;
  Execution execution;
  /// Of each layer's decompressed bytes, as Descriptor::sha256.
  std::vector<std::string> diff_ids;
};

/// One image of a `docker save` archive's manifest.json.
struct DockerImage {
  std::string config_path;
  std::vector<std::string> repo_tags;
  std::vector<std::string> layer_paths;
};

/// What the store says of an image, in its config.json.
struct ImageRecord {
  /// "sha256:..." of the manifest; of the configuration where an archive has no manifest.
  std::string digest;
  std::string architecture;
  Execution execution;
  /// What `user` means by the image's own tables.
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> groups;
  std::string home;
  uint64_t size_bytes = 0;
  /// Of its files' bytes, and how many files, directories and the like there are.
  uint64_t content_bytes = 0;
  uint64_t files = 0;
};

Result<Index> parse_index(std::string_view text);
Result<Manifest> parse_manifest(std::string_view text);
Result<ImageConfig> parse_image_config(std::string_view text);
Result<std::vector<DockerImage>> parse_docker_manifest(std::string_view text);

Result<ImageRecord> parse_record(std::string_view text);
std::string write_record(const ImageRecord& record);

}  // namespace mayfly::image
