// SPDX-License-Identifier: Apache-2.0
//
// A jail_probe in a real jail, from launch() to reaped, and what it and /proc say about it.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "jailer/launch.h"

#include <functional>
#include <map>
#include <string>

#include <sys/types.h>

namespace mayfly::jailer {

/// The built programs, opened once.
struct Programs {
  Fd jailer;
  Fd probe;
  static Programs open();
};

class Jailed {
 public:
  /// Launches the probe and reads its report. `error` has what the jailer said where there is none.
  static Result<Jailed> start(const Programs& programs, const JailPlan& jail,
                              bool leaves_proc_self = false);
  /// Ends and reaps the probe if that has not been done.
  ~Jailed();
  Jailed(Jailed&&) = default;

  pid_t pid() const { return launched_.pid; }
  /// What the probe said of `name`, "(not said)" where it said nothing.
  std::string said(const std::string& name) const;
  /// The text of /proc/PID/`name`.
  std::string proc(const std::string& name) const;
  /// The value of `key` in /proc/PID/status, blanks between words as one space.
  std::string status(const std::string& key) const;
  /// What /proc/PID/ns/`kind` links to.
  std::string name_space(const std::string& kind) const;
  /// Standard error, complete once the process has ended.
  const std::string& error() const { return error_; }
  /// Lets it end; its exit status, or 256 + the signal.
  int end();

 private:
  Jailed(Launched launched, Fd stay, Fd error);
  Launched launched_;
  Fd stay_;
  Fd error_pipe_;
  std::map<std::string, std::string> report_;
  std::string error_;
};

/// What /proc/self/ns/`kind` links to.
std::string own_name_space(const std::string& kind);
std::string read_file(const std::string& path);

/// Runs `body` in a forked child; what it returns, which the child's exit carries.
std::string in_child(const std::function<std::string()>& body);

}  // namespace mayfly::jailer
