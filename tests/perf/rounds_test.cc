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

TEST_CASE("every contender is measured in every round, and once before") {
  std::vector<Contender> contenders;
  int calls = 0;
  contenders.push_back(command("a", {"true"}));
  contenders.push_back(command("b", {"sleep", "0.02"}));
  contenders.push_back({"c", [&calls]() -> Result<Sample> {
                          return Sample{.wall_ns = static_cast<uint64_t>(++calls)};
                        }});
  const auto samples = run_rounds(contenders, 3);
  REQUIRE_UNARY(samples.has_value());
  REQUIRE_EQ(samples->size(), 3u);
  for (const auto& each : *samples) CHECK_EQ(each.size(), 3u);
  for (const Sample& sample : (*samples)[1]) CHECK_GE(sample.wall_ns, 20'000'000u);
  CHECK_EQ((*samples)[2][0].wall_ns, 2u);
}

TEST_CASE("a run that fails is an error, not a time") {
  const auto wrong = command("a", {"false"}).run();
  REQUIRE_UNARY(!wrong.has_value());
  CHECK_EQ(wrong.error().reason(), "EXIT_STATUS");
  CHECK_UNARY(command("a", {"false"}, 1).run().has_value());
  CHECK_UNARY(!command("b", {"/no/such/program"}).run().has_value());
  CHECK_UNARY(!command("c", {"sh", "-c", "kill -9 $$"}).run().has_value());
}

}  // namespace
}  // namespace mayfly::perf
