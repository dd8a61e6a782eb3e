// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <doctest/doctest.h>

#include <cerrno>

namespace mayfly {
namespace {

Result<int> half(int number) {
  if (number % 2 != 0) return fail({Code::kInvalidArgument, "ODD"}, "number: %d is odd", number);
  return number / 2;
}

Result<int> quarter(int number) { return TRY(half(TRY(half(number)))); }

TEST_CASE("TRY passes a value through and returns an error unchanged") {
  CHECK_EQ(*quarter(8), 2);
  const Result<int> result = quarter(6);
  REQUIRE_FALSE(result.has_value());
  CHECK_EQ(result.error().code(), Code::kInvalidArgument);
  CHECK_EQ(result.error().reason(), "ODD");
  CHECK_EQ(result.error().message(), "number: 3 is odd");
}

TEST_CASE("an error names the line that made it") {
  const Error error = half(1).error();
  CHECK(error.describe().find("INVALID_ARGUMENT ODD: number: 1 is odd (error_test.cc:") == 0);
}

TEST_CASE("fail_errno keeps errno and says what it means") {
  const Result<> result =
      fail_errno({Code::kNotFound, "FILE_MISSING"}, ENOENT, "open %s", "/nonexistent");
  CHECK_EQ(result.error().os_errno(), ENOENT);
  CHECK_EQ(result.error().message(), "open /nonexistent: No such file or directory");
}

TEST_CASE("with_context goes before the message") {
  CHECK_EQ(half(3).error().with_context("disks[0]").message(), "disks[0]: number: 3 is odd");
}

TEST_CASE("code numbers from outside map to the same code, and unknown ones to UNKNOWN") {
  CHECK_EQ(code_from_number(9), Code::kFailedPrecondition);
  CHECK_EQ(code_from_number(0), Code::kUnknown);
  CHECK_EQ(code_from_number(16), Code::kUnknown);
  CHECK_EQ(code_from_number(0xffffffff), Code::kUnknown);
}

}  // namespace
}  // namespace mayfly
