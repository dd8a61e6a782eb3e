// SPDX-License-Identifier: Apache-2.0
//
// A VM's metadata: one JSON object of its caller's, which the guest reads by way of its agent. What
// the guest asks is answered from here each time, so that it has the present document and no other
// VM's. docs/metadata.md.
#pragma once

#include "base/error.h"
#include "daemon/agent_codec.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

namespace mayfly::daemon {

/// Of the text that a caller gives.
inline constexpr size_t kMaxDocumentBytes = 256 << 10;
/// Of any of it, as the guest gets it; its agent takes no more.
inline constexpr size_t kMaxWrittenBytes = 2 * kMaxDocumentBytes;
inline constexpr int kMaxDocumentDepth = 32;
inline constexpr size_t kMaxKeyBytes = 256;
inline constexpr uint32_t kMaxTokenTtlS = 21600;
/// Of one VM's at a time; a further one takes the place of the one that would end first.
inline constexpr size_t kMaxTokens = 1024;

/// A checked document; immutable.
class MetadataDocument {
 public:
  /// A JSON object within the limits above. `field` is named in a refusal.
  static Result<std::shared_ptr<const MetadataDocument>> parse(const std::string& field,
                                                               const std::string& text);
  ~MetadataDocument();

  /// What is at a path as it was asked for. As text: an object is its keys, one a line, those of
  /// objects with a `/` behind them; a string is itself; all else is its JSON. INVALID_ARGUMENT
  /// where the path is none, NOT_FOUND where nothing is there.
  Result<std::string> read(const std::string& path, bool as_json) const;
  /// Of the text that it was made from.
  size_t size_bytes() const { return size_bytes_; }

 private:
  struct Tree;
  MetadataDocument(std::unique_ptr<Tree> tree, size_t size_bytes);

  const std::unique_ptr<const Tree> tree_;
  const size_t size_bytes_;
};

struct MetadataView {
  /// Another one for each document that this VM has had.
  uint64_t version = 0;
  size_t size_bytes = 0;
};

/// What a VM's guest is offered. Any thread.
class Metadata {
 public:
  using Document = std::shared_ptr<const MetadataDocument>;

  /// Null: there is none.
  explicit Metadata(Document document) : document_(std::move(document)) {}

  void set(Document document);
  bool is_there() const;
  /// Absent: there is none.
  std::optional<MetadataView> view() const;

  /// The answer to a guest's request. `now_ns` is CLOCK_MONOTONIC.
  AgentMetadataAnswer answer(const AgentMetadataRequest& request, uint64_t now_ns);

 private:
  using Status = AgentMetadataAnswer::Status;

  bool may_spend(uint64_t now_ns);
  std::string make_token(uint32_t ttl_s, uint64_t now_ns);
  bool is_token(const std::string& token, uint64_t now_ns);
  Status read(const AgentMetadataRequest& request, AgentMetadataAnswer& out);

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  Document document_;
  uint64_t version_ = 1;
  // When each of them ends.
  std::unordered_map<std::string, uint64_t> tokens_;
  // The last thing that was read, which its later pieces are of.
  std::string last_path_;
  bool last_as_json_ = false;
  uint64_t last_version_ = 0;
  std::string last_content_;
  // What the guest may have done for it, in units of work, as of when.
  uint64_t budget_ = kMaxBudget;
  uint64_t budget_ns_ = 0;

  // A request is a unit, and so are 4 KiB that are written out for one: about what two megabytes in
  // a second cost.
  static constexpr uint64_t kMaxBudget = 2000;
  static constexpr uint64_t kUnitsPerSecond = 1000;
  static constexpr size_t kBytesPerUnit = 4096;
};

}  // namespace mayfly::daemon
