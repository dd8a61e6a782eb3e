// SPDX-License-Identifier: Apache-2.0
#include "jailer/ids.h"

#include "jailer/capabilities_sys.h"

#include <cerrno>
#include <string_view>

#include <fcntl.h>
#include <grp.h>
#include <sys/prctl.h>
#include <unistd.h>

namespace mayfly::jailer {
namespace {

Result<> write_file(FdRef directory, const char* name, std::string_view text) {
  const Fd file(::openat(directory.number(), name, O_WRONLY | O_CLOEXEC));
  if (!file.valid() ||
      ::write(file.number(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return fail_errno({Code::kFailedPrecondition, "ID_MAP"}, errno, "write /proc/self/%s", name);
  }
  return {};
}

}  // namespace

Result<> take_ids(const JailSpec& spec) {
  if (::prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0) {
    return fail_errno({Code::kPermissionDenied, "KEEP_CAPABILITIES"}, errno, "keep capabilities");
  }
  if (::setgroups(0, nullptr) != 0) {
    return fail_errno({Code::kPermissionDenied, "SET_GROUPS"}, errno, "drop the groups");
  }
  if (::setresgid(spec.gid, spec.gid, spec.gid) != 0) {
    return fail_errno({Code::kPermissionDenied, "SET_GID"}, errno, "become group %u", spec.gid);
  }
  if (::setresuid(spec.uid, spec.uid, spec.uid) != 0) {
    return fail_errno({Code::kPermissionDenied, "SET_UID"}, errno, "become user %u", spec.uid);
  }
  TRY(raise_permitted_capabilities());
  // The change of ids made /proc/self root's, and map_ids() writes there.
  if (::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) != 0) {
    return fail_errno({Code::kInternal, "DUMPABLE"}, errno, "make /proc/self ours");
  }
  return {};
}

Result<> map_ids(FdRef proc_self, const JailSpec& spec) {
  // Without this the kernel lets nobody unprivileged map a group: giving up a group can give
  // access.
  TRY(write_file(proc_self, "setgroups", "deny"));
  TRY(write_file(proc_self, "gid_map", format("%u %u 1", spec.gid, spec.gid)));
  return write_file(proc_self, "uid_map", format("%u %u 1", spec.uid, spec.uid));
}

}  // namespace mayfly::jailer
