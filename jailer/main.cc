// SPDX-License-Identifier: Apache-2.0
//
// mayfly-jailer: takes away what a monitor does not need, then becomes it. Started by mayflyd, by
// launch(). One thread, one pass, no way back: a step that fails ends the process, and with it all
// that the steps before have made.
#include "base/log.h"
#include "base/no_new_privs_sys.h"
#include "jailer/capabilities_sys.h"
#include "jailer/cgroups.h"
#include "jailer/descriptors.h"
#include "jailer/empty_root_sys.h"
#include "jailer/enter.h"
#include "jailer/ids.h"
#include "jailer/jail_spec.h"
#include "jailer/landlock.h"
#include "jailer/limits.h"
#include "jailer/namespaces.h"

#include <cstdio>
#include <string_view>

namespace {

using namespace mayfly;
using namespace mayfly::jailer;

constexpr const char* kUsage =
    "mayfly-jailer: confines one program and becomes it. mayflyd starts it.\n\n"
    "usage: mayfly-jailer --exec-fd=N [OPTION]... -- ARGV0 [ARG]...\n"
    "  --exec-fd=N               an inherited descriptor of the program, open for reading\n"
    "  --keep-fd=N               a descriptor the program inherits; all others are closed\n"
    "  --proc-self-fd=N          where the program is left its own directory of /proc\n"
    "  --mode=root               new ids and namespaces; needs root and a new PID namespace\n"
    "  --mode=user               namespaces around us; needs a new user and PID namespace\n"
    "  --mode=off                descriptors, environment and limits only; the default\n"
    "  --uid=N --gid=N           root: the ids of the program; user: our own\n"
    "  --max-file-bytes=N        no file can be written beyond this\n"
    "  --cgroup-procs-fd=N       a cgroup.procs of cgroup v1 to enter\n"
    "  --mount-namespace-fd=N    root: an empty mount namespace to copy\n"
    "  --network-namespace-fd=N  root: an empty network namespace to enter\n";

// The order is that of what each step still needs: the host's /proc and cgroup files before the
// root goes, capabilities before they go, and Landlock last, which would forbid most of the others.
Result<> confine(const JailSpec& spec) {
  TRY(check_pid_namespace());
  const Fd proc_self = TRY(open_proc_self());
  TRY(leave_proc_self(proc_self.ref(), spec));
  TRY(join_shared_namespaces(spec));
  if (spec.mode == JailMode::kRoot) TRY(take_ids(spec));
  TRY(make_namespaces(proc_self.ref(), spec));
  if (spec.mount_namespace < 0) TRY(make_root_empty());
  TRY(drop_capabilities());
  TRY(forbid_new_privileges());
  return restrict_by_landlock(FdRef(spec.exec_fd), FdRef(spec.proc_self));
}

Result<> run(std::span<const char* const> arguments) {
  const JailSpec spec = TRY(parse_arguments(arguments));
  TRY(close_other_descriptors(spec));
  TRY(join_cgroups(spec));
  TRY(limit_resources(spec));
  TRY(spec.mode == JailMode::kOff ? forbid_new_privileges() : confine(spec));
  return enter(spec);
}

}  // namespace

int main(int argc, char** argv) {
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
