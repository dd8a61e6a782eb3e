// SPDX-License-Identifier: Apache-2.0
//
// A VM's body that waits for its VM: its monitor is jailed, filtered, and has restored a template's
// machine but for what makes it one VM and not another. It takes nothing of the host's CPUs.
#pragma once

#include "base/error.h"
#include "daemon/call.h"
#include "daemon/vm_body.h"
#include "daemon/vm_memory.h"

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace mayfly::daemon {

struct ShellPlan {
  // Its directory's and its cgroup's, and no VM's.
  std::string name;
  const PreparedMachine& machine;
  // Of its memory.
  std::vector<ChunkRun> copied_chunks = {};
};

class Shell final : private BodyOwner {
 public:
  /// Its monitor ended while it waited; `how` is for people. The reactor's thread.
  using EndHook = std::move_only_function<void(const Shell* shell, const std::string& how)>;

  /// Returns when it waits. Nothing remains after a failure. The hook may run before it returns,
  /// and does not once it was released. What the plan names is read until it returns.
  static Result<std::unique_ptr<Shell>> start(const VmEnvironment& environment,
                                              const ShellPlan& plan, EndHook ended,
                                              const Call& call);

  /// For VmBody::hand_over(), within the shell's life.
  std::unique_ptr<VmBody> release() { return std::move(body_); }
  uint64_t copied_bytes() const { return copied_bytes_; }
  /// The hook has been called, or is about to be.
  bool ended() const { return has_ended_; }
  /// It ends, and is not waited for.
  void kill() { body_->monitor().kill(); }

 private:
  Shell(EndHook ended, uint64_t copied_bytes)
      : copied_bytes_(copied_bytes), ended_(std::move(ended)) {}
  void on_agent(VmBody&, const AgentMessage&) override {}  // Its guest does not run.
  void on_monitor_end(VmBody& body, MonitorEnd end) override;

  const uint64_t copied_bytes_;
  std::atomic<bool> has_ended_ = false;
  // The reactor's thread only.
  EndHook ended_;
  std::unique_ptr<VmBody> body_;
};

}  // namespace mayfly::daemon
