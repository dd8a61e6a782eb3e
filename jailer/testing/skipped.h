// SPDX-License-Identifier: Apache-2.0
//
// A test case that cannot run here: tests/summary.py counts the line that this prints.
#pragma once

#include <doctest/doctest.h>

#include <cstdio>

namespace mayfly::jailer {

inline void skipped(const char* why) {
  std::printf("SKIPPED: %s: %s\n", doctest::getContextOptions()->currentTest->m_name, why);
}

}  // namespace mayfly::jailer
