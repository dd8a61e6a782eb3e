// SPDX-License-Identifier: Apache-2.0
#include "jailer/program.h"

#include <cerrno>

#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::jailer {
namespace {

constexpr mode_t kPermissions = 07777;

Result<> check_writers(const char* what, const struct stat& file) {
  if (file.st_mode & S_IWOTH) {
    return fail({Code::kFailedPrecondition, "PROGRAM_WRITABLE"},
                "%s: everyone may write it (mode %04o); chmod o-w", what,
                file.st_mode & kPermissions);
  }
  const bool foreign = file.st_uid != 0 && file.st_uid != ::geteuid();
  if (file.st_nlink > 1 && (foreign || (file.st_mode & S_IWGRP) != 0)) {
    return fail({Code::kFailedPrecondition, "PROGRAM_HARD_LINKED"},
                "%s: has %llu names, and others than root may write it (owner %u, mode %04o); "
                "install a copy of its own",
                what, static_cast<unsigned long long>(file.st_nlink), file.st_uid,
                file.st_mode & kPermissions);
  }
  return {};
}

}  // namespace

Result<> check_program(const char* what, FdRef program, JailMode mode, bool runs_as_other) {
  struct stat file = {};
  if (::fstat(program.number(), &file) != 0) {
    return fail_errno({Code::kInvalidArgument, "PROGRAM_DESCRIPTOR"}, errno, "%s: descriptor %d",
                      what, program.number());
  }
  if (!S_ISREG(file.st_mode)) {
    return fail({Code::kFailedPrecondition, "PROGRAM_NOT_A_FILE"}, "%s: not a regular file", what);
  }
  if (file.st_size == 0) {
    return fail({Code::kFailedPrecondition, "PROGRAM_EMPTY"}, "%s: the file is empty", what);
  }
  const mode_t needed = runs_as_other ? S_IXOTH : S_IXUSR | S_IXGRP | S_IXOTH;
  if ((file.st_mode & needed) == 0) {
    return fail({Code::kFailedPrecondition, "PROGRAM_NOT_EXECUTABLE"},
                "%s: mode %04o does not let %s execute it; chmod %s+x", what,
                file.st_mode & kPermissions, runs_as_other ? "the ids of the jail" : "anyone",
                runs_as_other ? "o" : "u");
  }
  if (file.st_mode & (S_ISUID | S_ISGID)) {
    return fail({Code::kFailedPrecondition, "PROGRAM_SET_ID"},
                "%s: is set-uid or set-gid (mode %04o); chmod ug-s", what,
                file.st_mode & kPermissions);
  }
  if (mode == JailMode::kRoot) return check_writers(what, file);
  return {};
}

}  // namespace mayfly::jailer
