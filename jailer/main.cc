// SPDX-License-Identifier: Apache-2.0
//
// mayfly-jailer: takes away what a monitor does not need, then becomes it. Started by mayflyd.
#include "base/log.h"
#include "jailer/jail_spec.h"
#include "jailer/jail_sys.h"

#include <cstdio>
#include <string_view>

namespace {

constexpr const char* kUsage =
    "mayfly-jailer: confines one program and becomes it. mayflyd starts it.\n\n"
    "usage: mayfly-jailer --exec-fd=N [--keep-fd=N]... -- ARGV0 [ARG]...\n"
    "  --exec-fd=N   an inherited descriptor of the program, open for reading\n"
    "  --keep-fd=N   a descriptor the program inherits; all others are closed\n";

mayfly::Result<> run(std::span<const char* const> arguments) {
  using namespace mayfly;
  const jailer::JailSpec spec = TRY(jailer::parse_arguments(arguments));
  TRY(jailer::close_other_descriptors(spec));
  TRY(jailer::limit_resources());
  TRY(jailer::forbid_new_privileges());
  return jailer::enter(spec);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace mayfly;
  log_init("mayfly-jailer", LogLevel::kInfo);
  const auto arguments = std::span<const char* const>(argv, static_cast<size_t>(argc)).subspan(1);
  if (arguments.empty() || std::string_view(arguments[0]) == "--help") {
    std::fputs(kUsage, stderr);
    return arguments.empty() ? 2 : 0;
  }
  const Result<> result = run(arguments);
  log(LogLevel::kError, "%s", result.error().describe().c_str());
  return 1;
}
