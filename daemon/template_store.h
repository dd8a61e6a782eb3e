// SPDX-License-Identifier: Apache-2.0
//
// The templates by id: snapshots that are resident, for VMs to go on from. They live as long as the
// daemon. Any thread; the lock is held for look-ups only.
#pragma once

#include "base/error.h"
#include "daemon/spec.h"
#include "daemon/vm_memory.h"

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace mayfly::daemon {

/// Each has a memory of its own in the host's.
inline constexpr size_t kMaxTemplates = 256;

/// A machine to go on from, and what a VM of it is like but for the overrides.
struct PreparedMachine {
  RestoreSource source;
  VmSpec spec;
  /// By 2 MiB of its memory: which of them are one huge page.
  std::vector<bool> huge_chunks = {};
};

struct TemplateView {
  std::string id;
  std::string snapshot_id;
  int64_t create_unix_us = 0;
  VmSpec spec;
  uint64_t resident_bytes = 0;
  uint64_t huge_bytes = 0;
  bool has_working_set = false;
};

struct TemplatePage {
  std::vector<TemplateView> templates;
  std::string next_page_token;
};

class TemplateStore;

/// An id that is taken while its template is being made; free again unless add() has used it.
class TemplateClaim {
 public:
  TemplateClaim(TemplateStore* store, std::string id) : store_(store), id_(std::move(id)) {}
  ~TemplateClaim();
  TemplateClaim(TemplateClaim&& other) noexcept
      : store_(std::exchange(other.store_, nullptr)), id_(std::move(other.id_)) {}
  TemplateClaim(const TemplateClaim&) = delete;
  TemplateClaim& operator=(const TemplateClaim&) = delete;
  const std::string& id() const { return id_; }

 private:
  TemplateStore* store_;
  std::string id_;
};

class TemplateStore {
 public:
  /// ALREADY_EXISTS while another has the id, RESOURCE_EXHAUSTED above kMaxTemplates.
  Result<TemplateClaim> claim(const std::string& id);
  /// The source has no layers.
  TemplateView add(const TemplateClaim& claim, TemplateView view, PreparedMachine machine);

  /// With files of its own, so that it outlives its template.
  Result<PreparedMachine> find(const std::string& id);
  /// The snapshot `from` has been rebased: the same memory has another digest.
  void rebased(const BaseSnapshot& from, const snapshot::Digest& to);
  Result<TemplateView> get(const std::string& id);
  /// In order of ids.
  Result<TemplatePage> list(size_t page_size, const std::string& page_token);
  /// Plans anew what VMs copy, for all templates of this memory, whose ids it returns.
  std::vector<std::string> learn(const snapshot::Digest& memory,
                                 const snapshot::WorkingSet& touched, uint32_t faults_of_copy);
  /// What was made from it stays.
  Result<> remove(const std::string& id);

 private:
  friend class TemplateClaim;
  struct Entry {
    TemplateView view;
    PreparedMachine machine;
  };
  Result<Entry*> entry(const std::string& id);

  std::mutex mutex_;
  // Guarded by mutex_. Nothing: it is being made.
  std::map<std::string, std::optional<Entry>> entries_;
};

}  // namespace mayfly::daemon
