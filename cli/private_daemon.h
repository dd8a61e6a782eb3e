// SPDX-License-Identifier: Apache-2.0
//
// A mayflyd of our own, for one command: it says when it serves and ends when we do, however that
// comes about.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <memory>
#include <string>

#include <sys/types.h>

namespace mayfly::cli {

/// Where the programs and the default guest are; each from its environment variable or beside this
/// executable.
struct Installation {
  std::string mayflyd;       // $MAYFLY_DAEMON
  std::string vmm;           // $MAYFLY_VMM
  std::string jailer;        // $MAYFLY_JAILER
  std::string agent_initrd;  // $MAYFLY_AGENT_INITRD, $MAYFLY_GUEST_DIR/agent.cpio
  // $MAYFLY_GUEST_DIR/vmlinux; where that has not been built, Debian's own kernel from stock/,
  // which needs an initrd with its modules.
  std::string kernel;
  std::string kernel_initrd;
  std::string rootfs;      // $MAYFLY_GUEST_DIR/rootfs.ext4
  std::string kvm_device;  // $MAYFLY_KVM_DEVICE; empty: the daemon's default
  std::string jail;        // $MAYFLY_JAIL; empty: the daemon's default
};
Installation find_installation();

/// --socket's value, else $MAYFLY_SOCKET, else the default of this user; as unix:/PATH.
std::string daemon_target(const std::string& flag);

class PrivateDaemon {
 public:
  /// Returns once it serves.
  static Result<std::unique_ptr<PrivateDaemon>> start(const Installation& installation);
  /// Ends it and waits until it has removed everything.
  ~PrivateDaemon();

  const std::string& target() const { return target_; }

 private:
  PrivateDaemon(pid_t pid, Fd line) : pid_(pid), line_(std::move(line)) {}
  Result<> wait_ready();

  const pid_t pid_;
  Fd line_;
  std::string target_;
};

}  // namespace mayfly::cli
