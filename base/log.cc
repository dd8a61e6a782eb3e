// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

#include <unistd.h>

namespace mayfly {
namespace {

constexpr int kMaxLine = 512;
constexpr const char* kLevelNames[] = {"error", "warning", "info", "debug"};

// Written once by log_init() before any thread exists.
const char* program_name = "mayfly";
LogLevel threshold = LogLevel::kInfo;

}  // namespace

void log_init(const char* program, LogLevel level) {
  program_name = program;
  threshold = level;
}

void log(LogLevel level, const char* format, ...) {
  if (level > threshold) return;
  char line[kMaxLine];
  int size = std::snprintf(line, sizeof(line), "%s %s ", program_name,
                           kLevelNames[static_cast<int>(level)]);
  va_list args;
  va_start(args, format);
  size += std::vsnprintf(line + size, sizeof(line) - static_cast<size_t>(size), format, args);
  va_end(args);
  size = std::min(size, kMaxLine - 1);
  line[size] = '\n';
  // A log line that cannot be written has nowhere to be reported.
  [[maybe_unused]] const ssize_t written =
      ::write(STDERR_FILENO, line, static_cast<size_t>(size) + 1);
}

}  // namespace mayfly
