// SPDX-License-Identifier: Apache-2.0
//
// What a VM is made of on its host: a directory, a jail, a console, the agent's connection and a
// monitor process. It is made for a VM, or ahead of one and handed over to it later on.
//
// One thread makes it, launches it, hands it over and destroys it; the monitor, the console and the
// agent's connection are then for any thread, as they say. What happens to it is told to its owner,
// by the reactor's thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/address_pool.h"
#include "daemon/agent_link.h"
#include "daemon/call.h"
#include "daemon/console.h"
#include "daemon/event_log.h"
#include "daemon/jail.h"
#include "daemon/monitor.h"
#include "daemon/reactor.h"
#include "daemon/spec.h"
#include "daemon/vm_net.h"
#include "daemon/vm_view.h"

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace mayfly::daemon {

/// What every VM of a daemon shares; outlives them.
struct VmEnvironment {
  Reactor& reactor;
  EventLog& events;
  // Holds one directory per VM; short enough that <id>/control.sock can be bound by way of /proc.
  std::string vms_dir;
  // Confines each monitor.
  JailHost& jails;
  std::string agent_initrd;
  std::string kvm_path = "/dev/kvm";
  std::string userfault_path = "/dev/userfaultfd";
  NetHost nets = {};
};

class VmBody;

/// As monitors get it.
Result<Fd> open_kvm(const VmEnvironment& environment);

/// The reactor's thread calls; it may take no lock under which a body is handed over or destroyed.
class BodyOwner {
 public:
  virtual void on_agent(VmBody& body, const AgentMessage& message) = 0;
  /// Once, after all that the agent has said. The body is not in use any more: give_back().
  virtual void on_monitor_end(VmBody& body, MonitorEnd end) = 0;

 protected:
  ~BodyOwner() = default;
};

struct BodyPlan {
  // Of its directory and its cgroup; no other has it.
  std::string name;
  GroupLimits limits;
  // No file can be written beyond this.
  uint64_t max_file_bytes = 0;
  uint32_t console_kib = 0;
  bool agent = false;
};

/// Removes a body's directory, with the files that it has. False: it stays, for errno's reason.
bool remove_body_directory(const std::string& path);

/// For a VM like this, whose disks may be written up to so many bytes and have these limits.
BodyPlan plan_body(std::string name, const VmSpec& spec, uint64_t largest_writable_disk,
                   std::vector<DeviceLimits> devices);

class VmBody {
 public:
  /// All but the monitor. Nothing remains after a failure. `owner` outlives it, or hands it over.
  static Result<std::unique_ptr<VmBody>> create(const VmEnvironment& environment,
                                                const BodyPlan& plan, BodyOwner& owner,
                                                Stopwatch& stopwatch);
  /// Kills what still runs and removes the directory.
  ~VmBody();
  VmBody(const VmBody&) = delete;
  VmBody& operator=(const VmBody&) = delete;

  /// The owner's hooks may run from now on. Once.
  Result<> launch();
  /// Builds the machine. Console, exit report and the agent's port are filled in here.
  Result<ControlReply> configure(ConfigureParams params, const Call& call);

  /// Its directory gets another name, and what happens from now on is told to `owner`. False: its
  /// end has been told already. An error leaves it to its new owner.
  Result<bool> hand_over(const std::string& name, BodyOwner& owner);

  /// The monitor has ended: gives back what goes without waiting. The reactor's thread.
  void give_back();

  /// After launch().
  Monitor& monitor() const { return *monitor_; }
  Console& console() const { return *console_; }
  VmJail& jail() const { return *jail_; }
  /// Null: without an agent.
  AgentLink* agent() const { return agent_.get(); }

 private:
  VmBody(const VmEnvironment& environment, std::string name, BodyOwner& owner)
      : environment_(environment), name_(std::move(name)), owner_(&owner) {}
  Result<> make_directory();
  Result<> make_streams(const BodyPlan& plan);
  void on_agent(const AgentMessage& message);
  void on_end(MonitorEnd end);
  void remove_directory();
  std::string directory_path() const { return environment_.vms_dir + "/" + name_; }
  std::string file_path(const char* name) const { return directory_path() + "/" + name; }

  const VmEnvironment& environment_;
  std::string name_;
  bool has_directory_ = false;
  // So that the control socket's path fits its address whatever the state directory's; until
  // launch() is through.
  Fd directory_;
  Fd exit_report_;
  // The monitor's end; until it has it.
  Fd agent_port_;

  // Held while the owner is told something.
  std::mutex owner_mutex_;
  // Guarded by owner_mutex_.
  BodyOwner* owner_;
  bool ended_ = false;

  // The hooks of the later ones use the earlier ones.
  std::unique_ptr<VmJail> jail_;
  std::unique_ptr<Console> console_;
  std::unique_ptr<AgentLink> agent_;
  std::unique_ptr<Monitor> monitor_;
};

}  // namespace mayfly::daemon
