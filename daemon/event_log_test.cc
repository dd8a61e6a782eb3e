// SPDX-License-Identifier: Apache-2.0
#include "daemon/event_log.h"

#include <doctest/doctest.h>

#include <chrono>
#include <thread>

using namespace mayfly;
using namespace mayfly::daemon;

namespace {

const Call kNow = Call::within(std::chrono::milliseconds(0));

Event deleted(const std::string& id) {
  return {.sequence = 0, .unix_us = 0, .vm_id = id, .incarnation = "i", .what = VmDeleted{}};
}

}  // namespace

TEST_CASE("events come in order, numbered from one") {
  EventLog log("epoch");
  EventCursor cursor = log.from_now();
  log.append(deleted("a"));
  log.append(deleted("b"));
  const auto first = log.next(cursor, kNow);
  REQUIRE(first);
  CHECK(first->sequence == 1);
  CHECK(first->vm_id == "a");
  CHECK(log.next(cursor, kNow)->sequence == 2);
  CHECK(log.next(cursor, kNow).error().code() == Code::kDeadlineExceeded);
}

TEST_CASE("a reader is woken by an event") {
  EventLog log("epoch");
  EventCursor cursor = log.from_now();
  std::thread writer([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    log.append(deleted("late"));
  });
  const auto event = log.next(cursor, Call::within(std::chrono::seconds(10)));
  writer.join();
  REQUIRE(event);
  CHECK(event->vm_id == "late");
}

TEST_CASE("a reader that falls behind is told how much it lost") {
  EventLog log("epoch");
  EventCursor cursor = log.from_oldest();
  for (size_t i = 0; i < kMaxEvents + 10; ++i) log.append(deleted("x"));
  const auto gap = log.next(cursor, kNow);
  REQUIRE(gap);
  REQUIRE(std::holds_alternative<EventGap>(gap->what));
  CHECK(std::get<EventGap>(gap->what).lost == 10);
  CHECK(log.next(cursor, kNow)->sequence == 11);
}

TEST_CASE("a gap's own token resumes right after the gap") {
  EventLog log("epoch");
  EventCursor cursor = log.from_oldest();
  for (size_t i = 0; i < kMaxEvents + 10; ++i) log.append(deleted("x"));
  const auto gap = log.next(cursor, kNow);
  auto resumed = log.from_token(log.token_after(gap->sequence));
  REQUIRE(resumed);
  CHECK(log.next(*resumed, kNow)->sequence == 11);
}

TEST_CASE("a token of another run of the daemon gives a gap of unknown size, then all there is") {
  EventLog log("new");
  log.append(deleted("a"));
  auto cursor = log.from_token("old.77");
  REQUIRE(cursor);
  const auto gap = log.next(*cursor, kNow);
  REQUIRE(std::holds_alternative<EventGap>(gap->what));
  CHECK(std::get<EventGap>(gap->what).lost == 0);
  CHECK(log.next(*cursor, kNow)->vm_id == "a");
}

TEST_CASE("tokens that no event carried are refused") {
  EventLog log("epoch");
  for (const char* token :
       {"x", "epoch", "epoch.", "epoch.x", "epoch.1x", ".1", "epoch.5", "epoch.-1"}) {
    CAPTURE(token);
    CHECK_FALSE(log.from_token(token));
  }
}

TEST_CASE("closing ends a wait") {
  EventLog log("epoch");
  EventCursor cursor = log.from_now();
  std::thread closer([&] { log.close(); });
  CHECK(log.next(cursor, Call()).error().code() == Code::kUnavailable);
  closer.join();
}
