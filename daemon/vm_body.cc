// SPDX-License-Identifier: Apache-2.0
#include "daemon/vm_body.h"

#include "base/log.h"
#include "snapshot/state_codec.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

constexpr const char* kFiles[] = {"control.sock", "console", "exit"};

}  // namespace

Result<Fd> open_kvm(const VmEnvironment& environment) {
  auto kvm = Fd::open(environment.kvm_path.c_str(), O_RDWR);
  if (kvm) return kvm;
  return fail_errno({Code::kFailedPrecondition, "KVM_MISSING"}, kvm.error().os_errno(),
                    "cannot open %s (`mayfly doctor` says more)", environment.kvm_path.c_str());
}

bool remove_body_directory(const std::string& path) {
  for (const char* name : kFiles) ::unlink((path + "/" + name).c_str());
  return ::rmdir(path.c_str()) == 0;
}

BodyPlan plan_body(std::string name, const VmSpec& spec, uint64_t largest_writable_disk,
                   std::vector<DeviceLimits> devices) {
  const uint64_t overhead_mib = memory_overhead_mib(spec.memory_mib, spec.console_kib);
  return {.name = std::move(name),
          .limits = {.asked = spec.limits,
                     .default_memory_mib = spec.memory_mib + overhead_mib,
                     .default_pids = default_pids(spec.vcpus),
                     .devices = std::move(devices)},
          // The device keeps a guest inside its disk; this is for a monitor that was taken over. It
          // saves its state, and pages of its memory at their places in a file as long as that.
          .max_file_bytes = std::max({largest_writable_disk, spec.memory_mib << 20,
                                      snapshot::kMaxStateBytes, uint64_t{kMaxExitReportBytes}}),
          .console_kib = spec.console_kib,
          .agent = spec.agent};
}

Result<std::unique_ptr<VmBody>> VmBody::create(const VmEnvironment& environment,
                                               const BodyPlan& plan, BodyOwner& owner,
                                               Stopwatch& stopwatch) {
  std::unique_ptr<VmBody> body(new VmBody(environment, plan.name, owner));
  TRY(body->make_directory());
  TRY(body->make_streams(plan));
  stopwatch.lap("open");
  body->jail_ = TRY(environment.jails.make(plan.name, plan.limits));
  body->jail_->limit_files(plan.max_file_bytes);
  stopwatch.lap("jail");
  return body;
}

VmBody::~VmBody() {
  // In this order: each one's hooks use those that go after it.
  monitor_.reset();
  agent_.reset();
  console_.reset();
  jail_.reset();
  remove_directory();
}

Result<> VmBody::make_directory() {
  const std::string directory = directory_path();
  if (::mkdir(directory.c_str(), 0700) != 0) {
    return fail_errno({Code::kFailedPrecondition, "STATE_DIR"}, errno, "make %s",
                      directory.c_str());
  }
  has_directory_ = true;
  directory_ = TRY(Fd::open(directory.c_str(), O_PATH | O_DIRECTORY));
  exit_report_ = TRY(Fd::open(file_path("exit").c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
  return {};
}

Result<> VmBody::make_streams(const BodyPlan& plan) {
  console_ = TRY(Console::create(environment_.reactor, file_path("console"), plan.console_kib));
  if (!plan.agent) return {};
  auto [ours, guests] = TRY(Fd::socket_pair(SOCK_STREAM));
  TRY(set_nonblocking(ours.ref(), true));
  agent_port_ = std::move(guests);
  agent_ = TRY(AgentLink::create(environment_.reactor, std::move(ours),
                                 [this](const AgentMessage& message) { on_agent(message); }));
  return {};
}

Result<> VmBody::launch() {
  const MonitorPlan plan{
      .vmm = environment_.jails.vmm(),
      .jailer = environment_.jails.jailer(),
      .jail = jail_->plan(),
      .control_path = format("/proc/self/fd/%d/control.sock", directory_.number()),
      .exit_report = exit_report_.ref(),
  };
  monitor_ = TRY(Monitor::launch(environment_.reactor, plan,
                                 [this](MonitorEnd end) { on_end(std::move(end)); }));
  jail_->launched();
  directory_.reset();
  return {};
}

Result<ControlReply> VmBody::configure(ConfigureParams params, const Call& call) {
  params.console_ring = console_->ring();
  params.console_event = console_->output_event();
  params.console_input = console_->input();
  if (agent_) params.host_ports.push_back({.port = kAgentPort, .fd = agent_port_.ref()});
  params.exit_report = exit_report_.ref();
  // Until a daemon can adopt the VMs of the one before it, a VM ends with its daemon.
  params.end_on_disconnect = true;
  ControlReply reply = TRY(monitor_->call([&](uint64_t id) { return encode_configure(id, params); },
                                          call, "build the VM"));
  console_->monitor_has_it();
  agent_port_.reset();
  exit_report_.reset();
  return reply;
}

Result<bool> VmBody::hand_over(const std::string& name, BodyOwner& owner) {
  {
    std::lock_guard lock(owner_mutex_);
    if (ended_) return false;
    owner_ = &owner;
  }
  const std::string before = directory_path();
  const std::string after = environment_.vms_dir + "/" + name;
  if (::renameat2(AT_FDCWD, before.c_str(), AT_FDCWD, after.c_str(), RENAME_NOREPLACE) != 0) {
    return fail_errno({Code::kFailedPrecondition, "STATE_DIR"}, errno, "make %s of %s",
                      after.c_str(), before.c_str());
  }
  name_ = name;
  return true;
}

void VmBody::on_agent(const AgentMessage& message) {
  std::lock_guard lock(owner_mutex_);
  owner_->on_agent(*this, message);
}

void VmBody::on_end(MonitorEnd end) {
  if (agent_) agent_->drain();
  std::lock_guard lock(owner_mutex_);
  ended_ = true;
  owner_->on_monitor_end(*this, std::move(end));
}

void VmBody::give_back() {
  jail_->ended();
  console_->close();
}

void VmBody::remove_directory() {
  if (!has_directory_) return;
  if (!remove_body_directory(directory_path())) {
    log(LogLevel::kWarning, "%s stays: errno %d", directory_path().c_str(), errno);
  }
}

}  // namespace mayfly::daemon
