// SPDX-License-Identifier: Apache-2.0
#include "daemon/event_log.h"

#include <charconv>

namespace mayfly::daemon {

namespace {

Event gap(uint64_t sequence, uint64_t lost) {
  Event event;
  event.sequence = sequence;
  event.unix_us = unix_now_us();
  event.what = EventGap{.lost = lost};
  return event;
}

}  // namespace

void EventLog::append(Event event) {
  {
    std::lock_guard lock(mutex_);
    event.sequence = next_sequence_++;
    event.unix_us = unix_now_us();
    events_.push_back(std::move(event));
    if (events_.size() > kMaxEvents) events_.pop_front();
  }
  appended_.notify_all();
}

EventCursor EventLog::from_now() const {
  std::lock_guard lock(mutex_);
  return {.next_sequence = next_sequence_, .epoch_changed = false};
}

EventCursor EventLog::from_oldest() const {
  std::lock_guard lock(mutex_);
  return {.next_sequence = next_sequence_ - events_.size(), .epoch_changed = false};
}

Result<EventCursor> EventLog::from_token(const std::string& token) const {
  const size_t dot = token.rfind('.');
  uint64_t sequence = 0;
  const char* end = token.data() + token.size();
  const bool numbered = dot != std::string::npos &&
                        std::from_chars(token.data() + dot + 1, end, sequence).ptr == end &&
                        dot + 1 < token.size();
  if (!numbered || dot == 0) {
    return fail({Code::kInvalidArgument, "RESUME_TOKEN"},
                "resume_token: is not one that an event carried");
  }
  if (token.substr(0, dot) != epoch_) {
    EventCursor cursor = from_oldest();
    cursor.epoch_changed = true;
    return cursor;
  }
  std::lock_guard lock(mutex_);
  if (sequence >= next_sequence_) {
    return fail({Code::kInvalidArgument, "RESUME_TOKEN"},
                "resume_token: event %llu has not happened yet",
                static_cast<unsigned long long>(sequence));
  }
  return EventCursor{.next_sequence = sequence + 1, .epoch_changed = false};
}

std::string EventLog::token_after(uint64_t sequence) const {
  return epoch_ + "." + std::to_string(sequence);
}

Result<Event> EventLog::next(EventCursor& cursor, const Call& call) const {
  std::unique_lock lock(mutex_);
  if (cursor.epoch_changed) {
    cursor.epoch_changed = false;
    return gap(cursor.next_sequence - 1, 0);
  }
  TRY(call.wait(lock, appended_, "waiting for an event",
                [&] { return closed_ || cursor.next_sequence < next_sequence_; }));
  if (cursor.next_sequence >= next_sequence_) {
    return fail({Code::kUnavailable, "DAEMON_STOPPING"}, "the daemon is stopping");
  }
  const uint64_t oldest = next_sequence_ - events_.size();
  if (cursor.next_sequence < oldest) {
    const uint64_t lost = oldest - cursor.next_sequence;
    cursor.next_sequence = oldest;
    return gap(oldest - 1, lost);
  }
  return events_[static_cast<size_t>(cursor.next_sequence++ - oldest)];
}

void EventLog::close() {
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
  }
  appended_.notify_all();
}

}  // namespace mayfly::daemon
