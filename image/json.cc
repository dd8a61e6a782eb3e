// SPDX-License-Identifier: Apache-2.0
#include "image/json.h"

#include "image/sha256.h"

#include <algorithm>
#include <limits>
#include <source_location>
#include <utility>

#include <nlohmann/json.hpp>

namespace mayfly::image {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 32;
constexpr size_t kMaxItems = 4096;
constexpr size_t kMaxStringBytes = 128 << 10;
constexpr std::string_view kRefName = "org.opencontainers.image.ref.name";

Failure bad(std::source_location where = std::source_location::current()) {
  return {Code::kDataLoss, "IMAGE_JSON", where};
}

Result<Json> parse(std::string_view text, const char* what) {
  // Without exceptions and without recursion; what is nested deeper than we look is not kept.
  Json json = Json::parse(
      text, [](int depth, Json::parse_event_t, Json&) { return depth <= kMaxDepth; }, false);
  if (json.is_discarded()) return fail(bad(), "%s: is no JSON", what);
  return json;
}

const Json* member(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

// A string without zero bytes; absent: empty.
Result<std::string> take_string(const Json& object, const char* key) {
  const Json* const value = member(object, key);
  if (value == nullptr) return std::string();
  if (!value->is_string()) return fail(bad(), "%s: is no string", key);
  const auto& text = *value->get_ptr<const std::string*>();
  if (text.size() > kMaxStringBytes) {
    return fail(bad(), "%s: %zu bytes are above the limit of %zu", key, text.size(),
                kMaxStringBytes);
  }
  if (text.find('\0') != text.npos) return fail(bad(), "%s: holds a zero byte", key);
  return text;
}

// An array; absent: none.
Result<const Json*> take_array(const Json& object, const char* key) {
  const Json* const value = member(object, key);
  if (value == nullptr) return nullptr;
  if (!value->is_array()) return fail(bad(), "%s: is no array", key);
  if (value->size() > kMaxItems) {
    return fail(bad(), "%s: %zu items are above the limit of %zu", key, value->size(), kMaxItems);
  }
  return value;
}

Result<std::vector<std::string>> take_strings(const Json& object, const char* key) {
  std::vector<std::string> strings;
  const Json* const items = TRY(take_array(object, key));
  if (items == nullptr) return strings;
  for (const Json& item : *items) {
    strings.push_back(TRY(take_string(Json{{key, item}}, key)));
  }
  return strings;
}

// Absent: 0.
Result<uint64_t> take_number(const Json& object, const char* key, uint64_t max) {
  const Json* const value = member(object, key);
  if (value == nullptr) return 0;
  const auto* const number = value->get_ptr<const Json::number_unsigned_t*>();
  if (number == nullptr || *number > max) {
    return fail(bad(), "%s: is no number from 0 to %llu", key,
                static_cast<unsigned long long>(max));
  }
  return *number;
}

Result<std::string> sha256_of(const std::string& digest, const char* field) {
  constexpr std::string_view kPrefix = "sha256:";
  if (!digest.starts_with(kPrefix) || !is_sha256_hex(digest.substr(kPrefix.size()))) {
    return fail(bad(), "%s: \"%.100s\" is not sha256: and 64 hexadecimal digits", field,
                digest.c_str());
  }
  return digest.substr(kPrefix.size());
}

Result<Descriptor> take_descriptor(const Json& json, const char* what) {
  if (!json.is_object()) return fail(bad(), "%s: is no object", what);
  Descriptor made;
  made.media_type = TRY(take_string(json, "mediaType"));
  made.sha256 = TRY(sha256_of(TRY(take_string(json, "digest")), "digest"));
  if (member(json, "size") == nullptr) return fail(bad(), "%s: has no size", what);
  made.size = TRY(take_number(json, "size", std::numeric_limits<int64_t>::max()));
  if (const Json* platform = member(json, "platform"); platform != nullptr) {
    if (!platform->is_object()) return fail(bad(), "platform: is no object");
    made.os = TRY(take_string(*platform, "os"));
    made.architecture = TRY(take_string(*platform, "architecture"));
  }
  if (const Json* annotations = member(json, "annotations"); annotations != nullptr) {
    if (!annotations->is_object()) return fail(bad(), "annotations: is no object");
    made.ref_name = TRY(take_string(*annotations, kRefName.data()));
  }
  return made;
}

Result<std::vector<Descriptor>> take_descriptors(const Json& json, const char* key) {
  std::vector<Descriptor> made;
  const Json* const items = TRY(take_array(json, key));
  if (items == nullptr) return fail(bad(), "%s: is missing", key);
  for (const Json& item : *items) made.push_back(TRY(take_descriptor(item, key)));
  return made;
}

Result<Json> parse_object(std::string_view text, const char* what) {
  Json json = TRY(parse(text, what));
  if (!json.is_object()) return fail(bad(), "%s: is no object", what);
  return json;
}

Result<Execution> take_execution(const Json& json) {
  Execution made;
  made.entrypoint = TRY(take_strings(json, "Entrypoint"));
  made.cmd = TRY(take_strings(json, "Cmd"));
  made.env = TRY(take_strings(json, "Env"));
  made.working_dir = TRY(take_string(json, "WorkingDir"));
  made.user = TRY(take_string(json, "User"));
  for (const std::string& entry : made.env) {
    const size_t equals = entry.find('=');
    if (equals == 0 || equals == entry.npos) {
      return fail(bad(), "Env: \"%.100s\" is not KEY=VALUE", entry.c_str());
    }
  }
  if (!made.working_dir.empty() && !made.working_dir.starts_with('/')) {
    return fail(bad(), "WorkingDir: \"%.100s\" is not absolute", made.working_dir.c_str());
  }
  return made;
}

}  // namespace

Result<Index> parse_index(std::string_view text) {
  const Json json = TRY(parse_object(text, "index"));
  return Index{.manifests = TRY(take_descriptors(json, "manifests"))};
}

Result<Manifest> parse_manifest(std::string_view text) {
  const Json json = TRY(parse_object(text, "manifest"));
  if (TRY(take_number(json, "schemaVersion", 1 << 20)) != 2) {
    return fail(bad(), "schemaVersion: is not 2, the only one that is known");
  }
  const Json* const config = member(json, "config");
  if (config == nullptr) return fail(bad(), "config: is missing");
  // GCC 12 would leak members that are there already, were these within one initializer.
  Manifest made;
  made.config = TRY(take_descriptor(*config, "config"));
  made.layers = TRY(take_descriptors(json, "layers"));
  return made;
}

Result<ImageConfig> parse_image_config(std::string_view text) {
  const Json json = TRY(parse_object(text, "image configuration"));
  ImageConfig made;
  made.os = TRY(take_string(json, "os"));
  made.architecture = TRY(take_string(json, "architecture"));
  if (const Json* config = member(json, "config"); config != nullptr) {
    if (!config->is_object()) return fail(bad(), "config: is no object");
    made.execution = TRY(take_execution(*config));
  }
  const Json* const rootfs = member(json, "rootfs");
  if (rootfs == nullptr || !rootfs->is_object()) return fail(bad(), "rootfs: is no object");
  for (const std::string& digest : TRY(take_strings(*rootfs, "diff_ids"))) {
    made.diff_ids.push_back(TRY(sha256_of(digest, "diff_ids")));
  }
  return made;
}

Result<std::vector<DockerImage>> parse_docker_manifest(std::string_view text) {
  const Json json = TRY(parse(text, "manifest.json"));
  if (!json.is_array() || json.size() > kMaxItems) {
    return fail(bad(), "manifest.json: is no array of at most %zu", kMaxItems);
  }
  std::vector<DockerImage> images;
  for (const Json& item : json) {
    if (!item.is_object()) return fail(bad(), "manifest.json: has an item that is no object");
    DockerImage image;
    image.config_path = TRY(take_string(item, "Config"));
    image.repo_tags = TRY(take_strings(item, "RepoTags"));
    image.layer_paths = TRY(take_strings(item, "Layers"));
    images.push_back(std::move(image));
  }
  return images;
}

Result<ImageRecord> parse_record(std::string_view text) {
  const Json json = TRY(parse_object(text, "config.json"));
  if (TRY(take_number(json, "format", 1 << 20)) != 1) return fail(bad(), "format: is not 1");
  ImageRecord made;
  made.digest = "sha256:" + TRY(sha256_of(TRY(take_string(json, "digest")), "digest"));
  made.architecture = TRY(take_string(json, "architecture"));
  const Json* const config = member(json, "config");
  if (config == nullptr || !config->is_object()) return fail(bad(), "config: is no object");
  made.execution = TRY(take_execution(*config));
  constexpr uint64_t kMaxId = 0xfffffffe;
  made.uid = static_cast<uint32_t>(TRY(take_number(json, "uid", kMaxId)));
  made.gid = static_cast<uint32_t>(TRY(take_number(json, "gid", kMaxId)));
  if (const Json* groups = TRY(take_array(json, "groups")); groups != nullptr) {
    for (const Json& item : *groups) {
      made.groups.push_back(
          static_cast<uint32_t>(TRY(take_number(Json{{"groups", item}}, "groups", kMaxId))));
    }
  }
  made.home = TRY(take_string(json, "home"));
  constexpr uint64_t kMaxBytes = std::numeric_limits<int64_t>::max();
  made.size_bytes = TRY(take_number(json, "sizeBytes", kMaxBytes));
  made.content_bytes = TRY(take_number(json, "contentBytes", kMaxBytes));
  made.files = TRY(take_number(json, "files", kMaxBytes));
  return made;
}

std::string write_record(const ImageRecord& record) {
  const Execution& execution = record.execution;
  nlohmann::ordered_json json = {
      {"format", 1},
      {"digest", record.digest},
      {"architecture", record.architecture},
      {"config",
       {{"Entrypoint", execution.entrypoint},
        {"Cmd", execution.cmd},
        {"Env", execution.env},
        {"WorkingDir", execution.working_dir},
        {"User", execution.user}}},
      {"uid", record.uid},
      {"gid", record.gid},
      {"groups", record.groups},
      {"home", record.home},
      {"sizeBytes", record.size_bytes},
      {"contentBytes", record.content_bytes},
      {"files", record.files},
  };
  // A home directory may be any bytes; the others come from JSON, which is UTF-8.
  return json.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace mayfly::image
