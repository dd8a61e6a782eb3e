// SPDX-License-Identifier: Apache-2.0
#include "daemon/metadata.h"

#include "daemon/random.h"
#include "daemon/text.h"

#include <algorithm>
#include <charconv>
#include <string_view>
#include <utility>

#include <nlohmann/json.hpp>

namespace mayfly::daemon {

namespace {

using Json = nlohmann::json;

constexpr uint64_t kSecondNs = 1'000'000'000;
constexpr size_t kMaxPathBytes = 2048;
constexpr size_t kTokenBytes = 32;
constexpr size_t kShownBytes = 64;

const Failure kRefused{Code::kInvalidArgument, "METADATA"};
const Failure kBadPath{Code::kInvalidArgument, "METADATA_PATH"};
const Failure kNothing{Code::kNotFound, "METADATA_PATH"};

/// Before anything is made of it: what is nested too deep would be written out by recursion.
int depth_of(std::string_view text) {
  int depth = 0;
  int deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      deepest = std::max(deepest, ++depth);
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return deepest;
}

/// A key has a line of its own, and is a part of a path.
Result<> check_keys(const std::string& field, const Json& value) {
  for (const auto& [key, member] : value.items()) {
    const bool is_plain = std::ranges::none_of(
        key, [](char c) { return static_cast<unsigned char>(c) < ' ' || c == 0x7f; });
    if (value.is_object() && (key.empty() || key.size() > kMaxKeyBytes || !is_plain)) {
      return fail(kRefused,
                  "%s: the key \"%s\" is not of 1 to %zu bytes without control characters",
                  field.c_str(), printable(key, kShownBytes).c_str(), kMaxKeyBytes);
    }
    if (member.is_structured()) TRY(check_keys(field, member));
  }
  return {};
}

int digit_of(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

Result<std::string> decode(std::string_view segment) {
  std::string out;
  for (size_t i = 0; i < segment.size(); ++i) {
    if (segment[i] != '%') {
      out.push_back(segment[i]);
      continue;
    }
    const int high = segment.size() - i > 2 ? digit_of(segment[i + 1]) : -1;
    const int low = high < 0 ? -1 : digit_of(segment[i + 2]);
    if (low < 0) return fail(kBadPath, "a %% without its two digits");
    out.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return out;
}

/// Null: nothing is there.
const Json* member(const Json& value, const std::string& name) {
  if (value.is_object()) {
    const auto found = value.find(name);
    return found == value.end() ? nullptr : &*found;
  }
  size_t place = 0;
  const char* const end = name.data() + name.size();
  const auto [stop, error] = std::from_chars(name.data(), end, place);
  const bool is_place = value.is_array() && error == std::errc() && stop == end &&
                        place < value.size() && (name.size() == 1 || name[0] != '0');
  return is_place ? &value[place] : nullptr;
}

std::string keys_of(const Json& object) {
  std::string lines;
  for (const auto& [key, value] : object.items()) {
    if (!lines.empty()) lines += '\n';
    lines += key;
    if (value.is_object()) lines += '/';
  }
  return lines;
}

std::string written(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

struct MetadataDocument::Tree {
  Json root;
};

MetadataDocument::MetadataDocument(std::unique_ptr<Tree> tree, size_t size_bytes)
    : tree_(std::move(tree)), size_bytes_(size_bytes) {}

MetadataDocument::~MetadataDocument() = default;

Result<std::shared_ptr<const MetadataDocument>> MetadataDocument::parse(const std::string& field,
                                                                        const std::string& text) {
  if (text.size() > kMaxDocumentBytes) {
    return fail(kRefused, "%s: %zu bytes are above the limit of %zu", field.c_str(), text.size(),
                kMaxDocumentBytes);
  }
  if (const int depth = depth_of(text); depth > kMaxDocumentDepth) {
    return fail(kRefused, "%s: is nested %d deep, above the limit of %d", field.c_str(), depth,
                kMaxDocumentDepth);
  }
  auto tree = std::make_unique<Tree>(Json::parse(text, nullptr, false));
  if (!tree->root.is_object()) {
    return fail(kRefused, "%s: is no JSON object", field.c_str());
  }
  TRY(check_keys(field, tree->root));
  // 1e9 is longer as we write it.
  if (const size_t size = written(tree->root).size(); size > kMaxWrittenBytes) {
    return fail(kRefused, "%s: is %zu bytes without abbreviations, above the limit of %zu",
                field.c_str(), size, kMaxWrittenBytes);
  }
  return std::shared_ptr<const MetadataDocument>(
      new MetadataDocument(std::move(tree), text.size()));
}

Result<std::string> MetadataDocument::read(const std::string& path, bool as_json) const {
  if (!path.starts_with('/') || path.size() > kMaxPathBytes) {
    return fail(kBadPath, "the path is too long or begins with no /");
  }
  const Json* value = &tree_->root;
  for (std::string_view rest = path; value != nullptr && !rest.empty();) {
    rest.remove_prefix(1);
    const std::string_view segment = rest.substr(0, rest.find('/'));
    rest.remove_prefix(segment.size());
    // Of none, as at the end of /a/, nothing is asked.
    if (!segment.empty()) value = member(*value, TRY(decode(segment)));
  }
  if (value == nullptr) return fail(kNothing, "nothing is there");
  if (!as_json && value->is_object()) return keys_of(*value);
  if (!as_json && value->is_string()) return *value->get_ptr<const std::string*>();
  return written(*value);
}

void Metadata::set(Document document) {
  std::lock_guard lock(mutex_);
  document_ = std::move(document);
  ++version_;
  last_content_.clear();
}

bool Metadata::is_there() const {
  std::lock_guard lock(mutex_);
  return document_ != nullptr;
}

std::optional<MetadataView> Metadata::view() const {
  std::lock_guard lock(mutex_);
  if (!document_) return std::nullopt;
  return MetadataView{.version = version_, .size_bytes = document_->size_bytes()};
}

bool Metadata::may_spend(uint64_t now_ns) {
  const uint64_t passed_ns = std::min(now_ns - std::min(budget_ns_, now_ns), 4 * kSecondNs);
  const uint64_t earned = passed_ns * kUnitsPerSecond / kSecondNs;
  if (earned > 0) {
    budget_ = std::min(budget_ + earned, kMaxBudget);
    budget_ns_ = now_ns;
  }
  if (budget_ == 0) return false;
  --budget_;
  return true;
}

std::string Metadata::make_token(uint32_t ttl_s, uint64_t now_ns) {
  std::erase_if(tokens_, [now_ns](const auto& token) { return token.second <= now_ns; });
  if (tokens_.size() >= kMaxTokens) {
    tokens_.erase(
        std::ranges::min_element(tokens_, {}, [](const auto& token) { return token.second; }));
  }
  std::string token;
  for (const char byte : random_bytes(kTokenBytes)) {
    token += format("%02x", static_cast<unsigned char>(byte));
  }
  tokens_.emplace(token, now_ns + ttl_s * kSecondNs);
  return token;
}

bool Metadata::is_token(const std::string& token, uint64_t now_ns) {
  const auto found = tokens_.find(token);
  return found != tokens_.end() && now_ns < found->second;
}

AgentMetadataAnswer Metadata::answer(const AgentMetadataRequest& request, uint64_t now_ns) {
  std::lock_guard lock(mutex_);
  AgentMetadataAnswer out{.id = request.id, .status = Status::kOk, .version = version_};
  if (!may_spend(now_ns)) {
    out.status = Status::kBusy;
  } else if (request.token_ttl_s != 0) {
    out.content = make_token(std::min(request.token_ttl_s, kMaxTokenTtlS), now_ns);
    out.total_bytes = static_cast<uint32_t>(out.content.size());
  } else if (!is_token(request.token, now_ns)) {
    out.status = Status::kUnauthorized;
  } else {
    out.status = read(request, out);
  }
  return out;
}

Metadata::Status Metadata::read(const AgentMetadataRequest& request, AgentMetadataAnswer& out) {
  if (!document_) return Status::kNotFound;
  const bool is_next = request.offset != 0 && last_version_ == version_ &&
                       last_path_ == request.path && last_as_json_ == request.as_json;
  if (!is_next) {
    auto content = document_->read(request.path, request.as_json);
    if (!content) {
      return content.error().code() == Code::kNotFound ? Status::kNotFound : Status::kBadPath;
    }
    last_content_ = *std::move(content);
    last_path_ = request.path;
    last_as_json_ = request.as_json;
    last_version_ = version_;
    budget_ -= std::min<uint64_t>(budget_, last_content_.size() / kBytesPerUnit);
  }
  out.is_json = request.as_json;
  out.total_bytes = static_cast<uint32_t>(last_content_.size());
  if (request.offset <= last_content_.size()) {
    out.content = last_content_.substr(request.offset, kMaxMetadataPiece);
  }
  return Status::kOk;
}

}  // namespace mayfly::daemon
