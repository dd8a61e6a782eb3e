// SPDX-License-Identifier: Apache-2.0
#include "jailer/jail_sys.h"

#include <algorithm>
#include <cerrno>
#include <vector>

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

namespace mayfly::jailer {
namespace {

constexpr unsigned kFirstOther = 3;

Result<> close_from_to(unsigned first, unsigned last) {
  if (first > last) return {};
  if (::close_range(first, last, 0) != 0) {
    return fail_errno({Code::kInternal, "CLOSE_RANGE"}, errno, "close descriptors %u to %u", first,
                      last);
  }
  return {};
}

Result<> check_open(int descriptor) {
  if (::fcntl(descriptor, F_GETFD) >= 0) return {};
  return fail_errno({Code::kInvalidArgument, "DESCRIPTOR"}, errno, "descriptor %d", descriptor);
}

}  // namespace

Result<> close_other_descriptors(const JailSpec& spec) {
  std::vector<int> open = spec.kept;
  open.push_back(spec.exec_fd);
  for (const int descriptor : open) TRY(check_open(descriptor));
  std::ranges::sort(open);
  unsigned next = kFirstOther;
  for (const int descriptor : open) {
    const auto number = static_cast<unsigned>(descriptor);
    TRY(close_from_to(next, number - 1));
    next = std::max(next, number + 1);
  }
  TRY(close_from_to(next, ~0u));
  if (::fcntl(spec.exec_fd, F_SETFD, FD_CLOEXEC) != 0) {
    return fail_errno({Code::kInternal, "CLOEXEC"}, errno, "descriptor %d", spec.exec_fd);
  }
  for (const int descriptor : spec.kept) {
    if (::fcntl(descriptor, F_SETFD, 0) != 0) {
      return fail_errno({Code::kInternal, "CLOEXEC"}, errno, "descriptor %d", descriptor);
    }
  }
  return {};
}

Result<> limit_resources() {
  constexpr rlimit kNone = {0, 0};
  if (::setrlimit(RLIMIT_CORE, &kNone) != 0) {
    return fail_errno({Code::kInternal, "RLIMIT"}, errno, "set RLIMIT_CORE to 0");
  }
  return {};
}

Result<> forbid_new_privileges() {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
    return fail_errno({Code::kInternal, "NO_NEW_PRIVS"}, errno, "set no_new_privs");
  }
  return {};
}

std::unexpected<Error> enter(const JailSpec& spec) {
  std::vector<char*> arguments;
  for (const std::string& argument : spec.arguments) {
    // SAFETY: execveat() does not write to its arguments.
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  char* const no_environment[] = {nullptr};
  ::execveat(spec.exec_fd, "", arguments.data(), no_environment, AT_EMPTY_PATH);
  return fail_errno({Code::kFailedPrecondition, "EXEC"}, errno, "execute descriptor %d (%s)",
                    spec.exec_fd, spec.arguments[0].c_str());
}

}  // namespace mayfly::jailer
