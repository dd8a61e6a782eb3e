// SPDX-License-Identifier: Apache-2.0
//
// A user and group id for each VM, of a range that is nobody else's. No two live VMs have the same,
// also those of different daemons on one host: each id in use is a lock on one byte of a file that
// they share. Any thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>

#include <sys/types.h>

namespace mayfly::daemon {

struct IdRange {
  uid_t first = 0;
  uid_t last = 0;
};

/// Above Linux distributions' users and their subordinate ids for containers.
inline constexpr IdRange kDefaultIds{.first = 900'000, .last = 965'535};

/// "FIRST-LAST". Refused: what is no such thing, and 0, 65534, 65535 and 4294967295, which mean
/// root, nobody and "unchanged".
Result<IdRange> parse_id_range(const std::string& text);

/// Refuses a range of which an id has an owner: who has it could signal and trace the VM's monitor.
/// `etc` holds passwd, group, subuid and subgid; one that is missing gives nothing away. Names from
/// elsewhere (LDAP and the like) are not looked up: that may block.
Result<> check_ids_unowned(const IdRange& range, const std::string& etc);

/// Refuses a range that a container's id map, in the form of /proc/self/uid_map, does not hold.
Result<> check_ids_mapped(const IdRange& range, const std::string& map, const char* map_name);

class IdPool;

/// One id, given back with its owner.
class IdLease {
 public:
  IdLease() = default;
  ~IdLease() { reset(); }
  IdLease(IdLease&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)), id_(std::exchange(other.id_, 0)) {}
  IdLease& operator=(IdLease&& other) noexcept {
    if (this != &other) {
      reset();
      pool_ = std::exchange(other.pool_, nullptr);
      id_ = std::exchange(other.id_, 0);
    }
    return *this;
  }
  /// 0: none.
  uid_t id() const { return id_; }
  void reset();

 private:
  friend class IdPool;
  IdLease(IdPool* pool, uid_t id) : pool_(pool), id_(id) {}
  IdPool* pool_ = nullptr;
  uid_t id_ = 0;
};

class IdPool {
 public:
  /// `lock_path` is made if it is missing; refused where it is another user's.
  static Result<std::unique_ptr<IdPool>> open(const IdRange& range, const std::string& lock_path);

  /// RESOURCE_EXHAUSTED, naming the range, when every id of it is in use.
  Result<IdLease> take();
  const IdRange& range() const { return range_; }

 private:
  friend class IdLease;
  IdPool(const IdRange& range, Fd locks, uid_t next)
      : range_(range), locks_(std::move(locks)), next_(next) {}
  bool set_lock(uid_t id, short type) const;
  void give_back(uid_t id);

  const IdRange range_;
  const Fd locks_;
  std::mutex mutex_;
  // Guarded by mutex_. A file's owner may lock a byte twice, so what is ours is counted here.
  std::set<uid_t> ours_;
  uid_t next_;
};

}  // namespace mayfly::daemon
