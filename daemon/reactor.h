// SPDX-License-Identifier: Apache-2.0
//
// The daemon's one I/O thread: an epoll loop that watches process ends, control replies, agents'
// connections and standard errors of all VMs. Callbacks run on its thread, do bounded work and
// never block.
//
// watch() and Watch's destructor may be called from any thread, the destructor not from the watch's
// own callback. After it has returned, the callback neither runs nor ever will; so a Watch must not
// be destroyed under a lock that its callback takes.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <utility>

namespace mayfly::daemon {

class Reactor;

/// What a callback answers: kEnd stops its events. The Watch must be destroyed all the same, and
/// waits then as ever for a callback that runs.
enum class WatchVerdict { kKeep, kEnd };

/// Keeps a callback registered; ends it when destroyed. The descriptor must outlive it.
class Watch {
 public:
  Watch() = default;
  Watch(Reactor* reactor, uint64_t id) : reactor_(reactor), id_(id) {}
  ~Watch() { reset(); }
  Watch(Watch&& other) noexcept
      : reactor_(std::exchange(other.reactor_, nullptr)), id_(other.id_) {}
  Watch& operator=(Watch&& other) noexcept {
    if (this != &other) {
      reset();
      reactor_ = std::exchange(other.reactor_, nullptr);
      id_ = other.id_;
    }
    return *this;
  }
  void reset();
  /// As if the callback had answered kEnd; does not wait. From any callback, its own included.
  void disarm();

 private:
  Reactor* reactor_ = nullptr;
  uint64_t id_ = 0;
};

class Reactor {
 public:
  using Callback = std::move_only_function<WatchVerdict(uint32_t events)>;

  /// Starts the thread.
  static Result<std::unique_ptr<Reactor>> create();
  /// Every Watch must be gone by now.
  ~Reactor();

  /// Level-triggered; `events` as of epoll (EPOLLIN, ...).
  Result<Watch> watch(FdRef fd, uint32_t events, Callback callback);

 private:
  friend class Watch;
  struct Entry {
    int fd;
    Callback callback;
    bool armed = true;
  };

  Reactor(Fd epoll, Fd wake) : epoll_(std::move(epoll)), wake_(std::move(wake)) {}
  void run();
  void dispatch(uint64_t id, uint32_t events);
  void unwatch(uint64_t id);
  void disarm(uint64_t id);
  void disarm_locked(Entry& entry);

  const Fd epoll_;
  const Fd wake_;
  std::mutex mutex_;
  std::condition_variable idle_;
  // Guarded by mutex_. An entry is destroyed only while its callback does not run.
  std::unordered_map<uint64_t, std::unique_ptr<Entry>> entries_;
  uint64_t next_id_ = 1;
  uint64_t current_id_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace mayfly::daemon
