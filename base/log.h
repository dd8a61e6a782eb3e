// SPDX-License-Identifier: Apache-2.0
//
// One line per call on standard error: `<program> <level> <text>`. Any thread; a line is one
// write(2), so lines never mix. The daemon reads a monitor's standard error and keeps its tail for
// the exit report. What a guest says is never logged here unescaped: log numbers and our own words.
#pragma once

namespace mayfly {

enum class LogLevel { kError, kWarning, kInfo, kDebug };

/// Called once from main(), before any thread starts. `program` is a string literal.
void log_init(const char* program, LogLevel level);

[[gnu::format(printf, 2, 3)]] void log(LogLevel level, const char* format, ...);

}  // namespace mayfly
