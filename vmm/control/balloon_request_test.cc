// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/testing/requests.h"

#include <doctest/doctest.h>

#include <unistd.h>

namespace mayfly::vmm {
namespace {

using testing::parse;
using testing::reason;

TEST_CASE("a balloon, its target and the question for it come through") {
  auto request = testing::boot_request();
  auto& balloon = *request.mutable_configure()->mutable_balloon();
  balloon.set_target_pages(16384);
  balloon.set_deflate_on_oom(true);
  balloon.set_stats_interval_s(86400);
  const auto configured = parse(request);
  REQUIRE(configured.has_value());
  const auto& config = std::get<Configure>(configured->call).machine.balloon;
  REQUIRE(config.has_value());
  CHECK_EQ(config->target_pages, 16384);
  CHECK(config->options == virtio::balloon::Options{true, false, 86400});
  balloon.set_target_pages(16385);
  CHECK_EQ(reason(request), "BALLOON_TARGET");
  balloon.set_target_pages(0);
  balloon.set_stats_interval_s(86401);
  CHECK_EQ(reason(request), "BALLOON_STATS");

  ::mayfly::control::Request set;
  set.set_id(7);
  set.mutable_set_balloon()->set_target_pages(99);
  CHECK_EQ(std::get<SetBalloon>(parse(set)->call).target_pages, 99);
  set.mutable_get_balloon();
  CHECK(std::holds_alternative<GetBalloon>(parse(set)->call));
}

TEST_CASE("what a balloon is like is said with the statistics that there are") {
  BalloonReport report;
  report.target_pages = 5;
  report.actual_pages = 4;
  report.stats_age_ns = 77;
  report.counters = {.inflated_pages = 3, .reported_pages = 2, .failures = 1};
  ::mayfly::control::Reply reply;
  REQUIRE(reply.ParseFromString(make_reply(7, Answer(report))));
  CHECK_FALSE(reply.balloon().has_stats());
  report.stats.at_ns = 1;
  report.stats.values[0] = 0;
  report.stats.values[9] = ~uint64_t{0};
  REQUIRE(reply.ParseFromString(make_reply(7, Answer(report))));
  const auto& said = reply.balloon();
  CHECK_EQ(said.target_pages(), 5);
  CHECK_EQ(said.actual_pages(), 4);
  CHECK_EQ(said.inflated_pages(), 3);
  CHECK_EQ(said.reported_pages(), 2);
  CHECK_EQ(said.failures(), 1);
  CHECK(said.has_stats());
  CHECK_EQ(said.stats_age_ns(), 77);
  REQUIRE_EQ(said.stats_size(), 2);
  CHECK_EQ(said.stats(0).tag(), 0);
  CHECK_EQ(said.stats(1).tag(), 9);
  CHECK_EQ(said.stats(1).value(), ~uint64_t{0});
}

}  // namespace
}  // namespace mayfly::vmm
