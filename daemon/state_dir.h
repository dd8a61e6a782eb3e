// SPDX-License-Identifier: Apache-2.0
//
// The directories of a daemon: made private to its user, locked against a second daemon, cleared of
// what a killed one left, and removed at the end if this daemon made them. Used by main() alone.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <memory>
#include <string>
#include <vector>

namespace mayfly::daemon {

class StateDir {
 public:
  /// `path` is made, mode 0700, if its parent exists; refused where it is another user's.
  static Result<std::unique_ptr<StateDir>> open(const std::string& path);
  ~StateDir();

  const std::string& path() const { return path_; }
  /// Holds one directory per VM.
  const std::string& vms_dir() const { return vms_dir_; }

 private:
  StateDir(std::string path, bool made, Fd lock);

  const std::string path_;
  const std::string vms_dir_;
  const bool made_;
  const Fd lock_;
};

/// A new private directory under $XDG_RUNTIME_DIR, or /tmp.
Result<std::string> make_private_dir();

/// Makes `path` with mode 0700 if it is missing; true if it was. Its parent must exist.
Result<bool> make_dir(const std::string& path);

}  // namespace mayfly::daemon
