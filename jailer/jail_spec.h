// SPDX-License-Identifier: Apache-2.0
//
// What a jail is made from: the jailer's arguments, checked. launch() writes them, main() reads
// them. Descriptors are plain numbers here, because they cross an exec as such.
#pragma once

#include "base/error.h"
#include "jailer/jail_mode.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <sys/types.h>

namespace mayfly::jailer {

/// The most descriptors a program in the jail may be given.
inline constexpr size_t kMaxKept = 16;
/// The most cgroup v1 hierarchies: Linux had 14 controllers at most, usually mounted in fewer.
inline constexpr size_t kMaxCgroupProcs = 8;

struct JailSpec {
  JailMode mode = JailMode::kOff;
  /// The program, open for reading: it is executed by descriptor, from wherever it lies.
  int exec_fd = -1;
  /// What the program inherits beside standard input, output and error.
  std::vector<int> kept;
  /// Where the program is left the directory of itself in /proc (O_PATH); its number is taken
  /// already. -1: it gets none, as with kOff, where it finds it by name.
  int proc_self = -1;
  /// kRoot: what the program runs as. kUser: who we are outside of our user namespace, in which
  /// nobody has a number yet.
  uid_t uid = 0;
  gid_t gid = 0;
  /// cgroup v1 `cgroup.procs` files, open for writing.
  std::vector<int> cgroup_procs;
  /// The shared empty namespaces; -1: own ones. kRoot only.
  int mount_namespace = -1;
  int network_namespace = -1;
  /// No file that it writes grows beyond this. kOff: not looked at.
  std::optional<uint64_t> max_file_bytes;
  /// Its argv, argv[0] included.
  std::vector<std::string> arguments;
};

/// From `[--OPTION=VALUE]... -- ARGV...`, without the jailer's own name.
Result<JailSpec> parse_arguments(std::span<const char* const> arguments);

/// What parse_arguments() makes `spec` of.
std::vector<std::string> format_arguments(const JailSpec& spec);

/// A user or group number that a jail may have: not root's, and not the one that means "no change".
Result<uint32_t> check_id(const char* name, uint64_t id);

}  // namespace mayfly::jailer
