// SPDX-License-Identifier: Apache-2.0
#include "daemon/reactor.h"

#include <array>
#include <cerrno>
#include <utility>

#include <sys/epoll.h>

namespace mayfly::daemon {

namespace {
constexpr uint64_t kWakeId = 0;
constexpr size_t kBatch = 64;
}  // namespace

void Watch::reset() {
  if (reactor_ != nullptr) std::exchange(reactor_, nullptr)->unwatch(id_);
}

void Watch::disarm() {
  if (reactor_ != nullptr) reactor_->disarm(id_);
}

Result<std::unique_ptr<Reactor>> Reactor::create() {
  Fd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid())
    return fail_errno({Code::kResourceExhausted, "EPOLL"}, errno, "epoll_create1");
  Fd wake = TRY(Fd::event());
  epoll_event event{.events = EPOLLIN, .data = {.u64 = kWakeId}};
  if (::epoll_ctl(epoll.number(), EPOLL_CTL_ADD, wake.number(), &event) != 0) {
    return fail_errno({Code::kResourceExhausted, "EPOLL"}, errno, "epoll_ctl");
  }
  std::unique_ptr<Reactor> reactor(new Reactor(std::move(epoll), std::move(wake)));
  reactor->thread_ = std::thread([raw = reactor.get()] { raw->run(); });
  return reactor;
}

Reactor::~Reactor() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  signal_event(wake_.ref());
  thread_.join();
}

Result<Watch> Reactor::watch(FdRef fd, uint32_t events, Callback callback) {
  uint64_t id = 0;
  {
    std::lock_guard lock(mutex_);
    id = next_id_++;
    entries_.emplace(
        id, std::make_unique<Entry>(Entry{.fd = fd.number(), .callback = std::move(callback)}));
  }
  epoll_event event{.events = events, .data = {.u64 = id}};
  if (::epoll_ctl(epoll_.number(), EPOLL_CTL_ADD, fd.number(), &event) != 0) {
    const int os_errno = errno;
    std::lock_guard lock(mutex_);
    entries_.erase(id);
    return fail_errno({Code::kResourceExhausted, "EPOLL"}, os_errno, "watch descriptor %d",
                      fd.number());
  }
  return Watch(this, id);
}

void Reactor::unwatch(uint64_t id) {
  std::unique_ptr<Entry> entry;  // Destroyed without the lock.
  std::unique_lock lock(mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  entry = std::move(found->second);
  entries_.erase(found);
  disarm_locked(*entry);
  idle_.wait(lock, [&] { return current_id_ != id; });
}

void Reactor::disarm(uint64_t id) {
  std::lock_guard lock(mutex_);
  if (const auto found = entries_.find(id); found != entries_.end()) disarm_locked(*found->second);
}

void Reactor::disarm_locked(Entry& entry) {
  // Once only: the number may be another file's later on.
  if (std::exchange(entry.armed, false)) {
    ::epoll_ctl(epoll_.number(), EPOLL_CTL_DEL, entry.fd, nullptr);
  }
}

void Reactor::run() {
  std::array<epoll_event, kBatch> events;
  for (;;) {
    const int count = ::epoll_wait(epoll_.number(), events.data(), kBatch, -1);
    for (int i = 0; i < count; ++i) {
      const epoll_event& event = events[static_cast<size_t>(i)];
      if (event.data.u64 != kWakeId) {
        dispatch(event.data.u64, event.events);
        continue;
      }
      clear_event(wake_.ref());
      std::lock_guard lock(mutex_);
      if (stopping_) return;
    }
  }
}

void Reactor::dispatch(uint64_t id, uint32_t events) {
  Entry* entry = nullptr;
  {
    std::lock_guard lock(mutex_);
    const auto found = entries_.find(id);
    if (found == entries_.end() || !found->second->armed)
      return;  // Ended since this batch was read.
    entry = found->second.get();
    current_id_ = id;
  }
  const WatchVerdict verdict = entry->callback(events);
  {
    std::lock_guard lock(mutex_);
    // An unwatch() under way has taken the entry out, and waits for current_id_.
    if (verdict == WatchVerdict::kEnd) disarm_locked(*entry);
    current_id_ = 0;
  }
  idle_.notify_all();
}

}  // namespace mayfly::daemon
