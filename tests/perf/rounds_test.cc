// SPDX-License-Identifier: Apache-2.0
#include "tests/perf/rounds.h"

#include <doctest/doctest.h>

namespace mayfly::perf {
namespace {

TEST_CASE("quantiles are of the sorted values") {
  CHECK_EQ(quantile({3, 1, 2}, 0), 1);
  CHECK_EQ(quantile({3, 1, 2}, 0.5), 2);
  CHECK_EQ(quantile({3, 1, 2}, 1), 3);
  CHECK_EQ(quantile({7}, 0.99), 7);
}

TEST_CASE("every contender is measured in every round") {
  const auto samples =
      run_rounds({{"a", {"true"}}, {"b", {"sh", "-c", "sleep 0.02; exit 3"}, 3}}, 3);
  REQUIRE_UNARY(samples.has_value());
  REQUIRE_EQ(samples->size(), 2u);
  for (const auto& each : *samples) CHECK_EQ(each.size(), 3u);
  for (const Sample& sample : (*samples)[1]) CHECK_GE(sample.wall_ns, 20'000'000u);
}

TEST_CASE("a run that fails is an error, not a time") {
  const auto wrong = run_once({"a", {"false"}});
  REQUIRE_UNARY(!wrong.has_value());
  CHECK_EQ(wrong.error().reason(), "EXIT_STATUS");
  CHECK_UNARY(!run_once({"a", {"/no/such/program"}}).has_value());
  CHECK_UNARY(!run_once({"a", {"sh", "-c", "kill -9 $$"}}).has_value());
}

}  // namespace
}  // namespace mayfly::perf
