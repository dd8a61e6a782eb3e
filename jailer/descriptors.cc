// SPDX-License-Identifier: Apache-2.0
#include "jailer/descriptors.h"

#include <algorithm>
#include <cerrno>
#include <vector>

#include <fcntl.h>
#include <linux/close_range.h>
#include <sys/stat.h>
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

Result<> set_descriptor_flags(int descriptor, int flags) {
  if (::fcntl(descriptor, F_SETFD, flags) == 0) return {};
  return fail_errno({Code::kInvalidArgument, "DESCRIPTOR"}, errno, "descriptor %d", descriptor);
}

Result<> check_no_directory(int descriptor) {
  struct stat file = {};
  if (::fstat(descriptor, &file) != 0) {
    return fail_errno({Code::kInvalidArgument, "DESCRIPTOR"}, errno, "descriptor %d", descriptor);
  }
  if (!S_ISDIR(file.st_mode)) return {};
  return fail({Code::kInvalidArgument, "KEPT_DIRECTORY"},
              "--keep-fd=%d: is a directory, which would lead out of the jail", descriptor);
}

}  // namespace

Result<> leave_proc_self(FdRef proc_self, const JailSpec& spec) {
  if (spec.proc_self < 0 || ::dup3(proc_self.number(), spec.proc_self, 0) >= 0) return {};
  return fail_errno({Code::kInternal, "DESCRIPTOR"}, errno, "leave /proc/self as descriptor %d",
                    spec.proc_self);
}

Result<> close_other_descriptors(const JailSpec& spec) {
  std::vector<int> open = spec.cgroup_procs;
  open.push_back(spec.exec_fd);
  for (const int fd : {spec.mount_namespace, spec.network_namespace, spec.proc_self}) {
    if (fd >= 0) open.push_back(fd);
  }
  for (const int descriptor : open) TRY(set_descriptor_flags(descriptor, FD_CLOEXEC));
  for (const int descriptor : spec.kept) {
    TRY(check_no_directory(descriptor));
    TRY(set_descriptor_flags(descriptor, 0));
  }
  open.insert(open.end(), spec.kept.begin(), spec.kept.end());
  std::ranges::sort(open);
  unsigned next = kFirstOther;
  for (const int descriptor : open) {
    const auto number = static_cast<unsigned>(descriptor);
    TRY(close_from_to(next, number - 1));
    next = std::max(next, number + 1);
  }
  return close_from_to(next, ~0u);
}

}  // namespace mayfly::jailer
