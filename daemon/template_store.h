// SPDX-License-Identifier: Apache-2.0
//
// The templates by id: snapshots that are resident, for VMs to go on from, and their shells. They
// live as long as the daemon. Any thread; the lock is held for look-ups only.
#pragma once

#include "base/error.h"
#include "daemon/shell_pool.h"
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

struct TemplateView {
  std::string id;
  std::string snapshot_id;
  int64_t create_unix_us = 0;
  VmSpec spec;
  uint64_t resident_bytes = 0;
  uint64_t huge_bytes = 0;
  bool has_working_set = false;
  // Absent: it has none.
  std::optional<ShellCounts> shells = {};
};

struct TemplatePage {
  std::vector<TemplateView> templates;
  std::string next_page_token;
};

class TemplateStore;

/// An id that is taken while its template is being made or removed; free again afterwards, unless
/// add() has used it.
class TemplateClaim {
 public:
  TemplateClaim(TemplateStore* store, std::string id, uint64_t number)
      : store_(store), id_(std::move(id)), number_(number) {}
  ~TemplateClaim();
  TemplateClaim(TemplateClaim&& other) noexcept
      : store_(std::exchange(other.store_, nullptr)),
        id_(std::move(other.id_)),
        number_(other.number_) {}
  TemplateClaim(const TemplateClaim&) = delete;
  TemplateClaim& operator=(const TemplateClaim&) = delete;
  const std::string& id() const { return id_; }
  /// No other template's, ever.
  uint64_t number() const { return number_; }

 private:
  TemplateStore* store_;
  std::string id_;
  uint64_t number_;
};

class TemplateStore {
 public:
  /// The shells outlive it.
  explicit TemplateStore(ShellPool& shells) : shells_(shells) {}

  /// ALREADY_EXISTS while another has the id, RESOURCE_EXHAUSTED above kMaxTemplates.
  Result<TemplateClaim> claim(const std::string& id);
  /// There once its shells are ready; as ShellPool::add(). The source has no layers.
  Result<TemplateView> add(const TemplateClaim& claim, TemplateView view, PreparedMachine machine,
                           const Call& call);

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
  /// Ends its shells; what was made from it stays.
  Result<> remove(const std::string& id);
  ShellPool& shells() { return shells_; }

 private:
  friend class TemplateClaim;
  // The shells have a copy.
  struct Entry {
    TemplateView view;
    PreparedMachine machine;
  };
  Result<Entry*> entry(const std::string& id);
  TemplateView view_of(const Entry& entry) const;

  ShellPool& shells_;
  std::mutex mutex_;
  // Guarded by mutex_. Nothing: it is being made, or removed.
  std::map<std::string, std::optional<Entry>> entries_;
  uint64_t next_number_ = 1;
};

}  // namespace mayfly::daemon
