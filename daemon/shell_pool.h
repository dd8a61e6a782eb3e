// SPDX-License-Identifier: Apache-2.0
//
// The shells of all templates: as many as each template wants are kept ready. One thread makes
// them, one after the other, while nobody claims any.
//
// Any thread. The lock is held for look-ups only: shells are made and destroyed without it.
#pragma once

#include "base/error.h"
#include "daemon/call.h"
#include "daemon/shell.h"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace mayfly::daemon {

/// Of one template, and of all together.
inline constexpr size_t kMaxTemplateShells = 1000;
inline constexpr size_t kMaxShells = 4000;

struct ShellCounts {
  // How many shall be ready.
  uint32_t wanted = 0;
  uint32_t ready = 0;
  uint32_t starting = 0;
  // Ever since.
  uint64_t claimed = 0;
  // Could not be started, or ended while they waited.
  uint64_t failed = 0;
  // The last of those, for people.
  std::string last_failure = {};
};

class ShellPool;

/// What a call that makes a VM of a template may take. While such calls are under way, and for a
/// moment afterwards, no shell is made.
class ShellOffer {
 public:
  ShellOffer(ShellPool& pool, uint64_t template_number);
  ~ShellOffer();
  ShellOffer(const ShellOffer&) = delete;
  ShellOffer& operator=(const ShellOffer&) = delete;
  /// Null: none is ready. Again, where one had ended.
  std::unique_ptr<Shell> take();
  /// The VM is there, or will not be. Twice is once; the destructor does it too.
  void end();

 private:
  ShellPool& pool_;
  const uint64_t template_number_;
  bool took_ = false;
  bool ended_ = false;
};

class ShellPool {
 public:
  explicit ShellPool(const VmEnvironment& environment) : environment_(environment) {}
  ~ShellPool() { stop(); }

  /// Makes `count` shells and keeps as many from now on; returns when they are ready. Where one
  /// fails, or the caller gives up, nothing remains. RESOURCE_EXHAUSTED above the limits.
  Result<> add(PreparedMachine machine, uint32_t count, const Call& call);
  /// Shells copy by these plans from now on; those that wait are replaced. Nothing where there are
  /// none.
  void learn(uint64_t template_number, const MemoryPlans& plans);
  /// Ends them. Once this returns nothing of them is left.
  void remove(uint64_t template_number);
  /// Absent: none are kept.
  std::optional<ShellCounts> counts(uint64_t template_number) const;

  /// Ends all, and makes no more.
  void stop();

 private:
  friend class ShellOffer;
  using Time = std::chrono::steady_clock::time_point;

  struct Stock {
    // Constant, but for its plans, which the lock guards.
    PreparedMachine machine;
    ShellCounts counts;
    std::vector<std::unique_ptr<Shell>> ready;
    // Ended while they waited, or of no use any more.
    std::vector<std::unique_ptr<Shell>> dead;
    bool removing = false;
    // After failures, one after the other.
    uint32_t failures = 0;
    Time last_failure = Time::min();
    Time not_before = Time::min();
    std::optional<Error> error;
  };
  // By the template's number.
  using Stocks = std::map<uint64_t, Stock>;

  void begin_claim();
  void end_claim(bool took);
  std::unique_ptr<Shell> take(uint64_t template_number, bool one_had_ended);
  Result<> check_count(uint32_t count) const;
  void run();
  /// When the next shell is due, and of which stock.
  std::pair<Stock*, Time> next_due();
  void make_one(std::unique_lock<std::mutex>& lock, Stock& stock);
  void on_end(uint64_t template_number, const Shell* shell, const std::string& how);
  void failed(Stock& stock, Error error);

  const VmEnvironment& environment_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  Stocks stocks_;
  uint64_t next_name_ = 1;
  uint32_t claims_under_way_ = 0;
  Time last_claim_ = Time::min();
  // Since no shell was missing.
  Time first_claim_ = Time::max();
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace mayfly::daemon
