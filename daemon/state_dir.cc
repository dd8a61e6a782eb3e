// SPDX-License-Identifier: Apache-2.0
#include "daemon/state_dir.h"

#include "base/log.h"
#include "daemon/vm_body.h"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

/// Removes the VM directories of a daemon that was killed; its VMs ended with it, which is told
/// here since nobody else can. Only names that a daemon makes are touched.
void sweep(const std::string& vms_dir) {
  // All names first: a file system may pass over some while others are removed.
  std::vector<std::filesystem::path> found;
  std::error_code error;
  std::filesystem::directory_iterator entry(vms_dir, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
    found.push_back(entry->path());
  if (error) {
    log(LogLevel::kWarning, "read %s: %s; what a killed daemon left there stays", vms_dir.c_str(),
        error.message().c_str());
  }
  for (const auto& path : found) {
    const std::string name = path.filename().string();
    if (!remove_body_directory(path)) {
      log(LogLevel::kWarning, "%s is none of ours and stays: errno %d", path.c_str(), errno);
    } else if (name.starts_with('.')) {
      log(LogLevel::kInfo, "shell %s ended with its daemon, which was killed", name.c_str());
    } else {
      log(LogLevel::kWarning, "VM %s ended with its daemon, which was killed", name.c_str());
    }
  }
}

}  // namespace

Result<bool> make_dir(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) == 0) return true;
  if (errno != EEXIST) {
    return fail_errno({Code::kFailedPrecondition, "STATE_DIR"}, errno, "make directory %s",
                      path.c_str());
  }
  struct stat status;
  if (::stat(path.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
    return fail({Code::kFailedPrecondition, "STATE_DIR"}, "%s is not a directory", path.c_str());
  }
  return false;
}

Result<std::string> make_private_dir() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  for (const char* base : {runtime, "/tmp"}) {
    if (base == nullptr || base[0] != '/') continue;
    std::string path = std::string(base) + "/mayfly-XXXXXX";
    if (::mkdtemp(path.data()) != nullptr) return path;
  }
  return fail_errno({Code::kFailedPrecondition, "STATE_DIR"}, errno, "make a directory in /tmp");
}

Result<std::unique_ptr<StateDir>> StateDir::open(const std::string& path) {
  if (path.empty() || path[0] != '/') {
    return fail({Code::kInvalidArgument, "STATE_DIR"},
                "--state-dir: \"%s\" is not an absolute path", path.c_str());
  }
  const bool made = TRY(make_dir(path));
  struct stat status;
  if (::stat(path.c_str(), &status) != 0) {
    return fail_errno({Code::kFailedPrecondition, "STATE_DIR"}, errno, "stat %s", path.c_str());
  }
  if (status.st_uid != ::geteuid()) {
    return fail({Code::kPermissionDenied, "STATE_DIR"},
                "--state-dir: %s belongs to user %u, not to us (%u)", path.c_str(), status.st_uid,
                ::geteuid());
  }
  if (::chmod(path.c_str(), 0700) != 0) {
    return fail_errno({Code::kFailedPrecondition, "STATE_DIR"}, errno, "chmod %s", path.c_str());
  }
  Fd lock = TRY(Fd::open((path + "/lock").c_str(), O_RDWR | O_CREAT | O_NOFOLLOW, 0600));
  if (::flock(lock.number(), LOCK_EX | LOCK_NB) != 0) {
    return fail({Code::kAlreadyExists, "STATE_DIR_IN_USE"},
                "--state-dir: %s is in use by a running mayflyd", path.c_str());
  }
  std::unique_ptr<StateDir> dir(new StateDir(path, made, std::move(lock)));
  TRY(make_dir(dir->vms_dir()));
  sweep(dir->vms_dir());
  return dir;
}

StateDir::StateDir(std::string path, bool made, Fd lock)
    : path_(std::move(path)), vms_dir_(path_ + "/vms"), made_(made), lock_(std::move(lock)) {}

StateDir::~StateDir() {
  ::rmdir(vms_dir_.c_str());
  ::unlink((path_ + "/lock").c_str());
  if (made_) ::rmdir(path_.c_str());
}

}  // namespace mayfly::daemon
