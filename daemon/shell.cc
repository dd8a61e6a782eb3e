// SPDX-License-Identifier: Apache-2.0
#include "daemon/shell.h"

#include <algorithm>

namespace mayfly::daemon {

namespace {

/// A claim may bring disks of this size.
uint64_t largest_writable_disk(const VmSpec& spec) {
  uint64_t largest = 0;
  for (const DiskSpec* disk : all_disks(spec)) {
    if (!disk->read_only) largest = std::max(largest, disk->size_bytes.value_or(0));
  }
  return largest;
}

ConfigureParams parked(const ShellPlan& plan, FdRef kvm) {
  const PreparedMachine& machine = plan.machine;
  ConfigureParams params;
  params.vcpus = machine.spec.vcpus;
  params.memory_bytes = machine.spec.memory_mib << 20;
  params.kvm = kvm;
  params.memory = machine.source.memory.ref();
  if (machine.spec.agent) params.guest_cid = kMinGuestCid;
  if (machine.spec.balloon) params.balloon = machine.spec.balloon->params();
  params.restore = RestoreParams{.state = machine.source.state.ref(),
                                 .layers = {},
                                 .generation_id = {},
                                 .parks = true,
                                 .copied_chunks = plan.copied_chunks};
  return params;
}

}  // namespace

Result<std::unique_ptr<Shell>> Shell::start(const VmEnvironment& environment, const ShellPlan& plan,
                                            EndHook ended, const Call& call) {
  std::unique_ptr<Shell> shell(new Shell(std::move(ended), bytes_of(plan.copied_chunks)));
  const VmSpec& spec = plan.machine.spec;
  Stopwatch ignored;
  const Fd kvm = TRY(open_kvm(environment));
  shell->body_ = TRY(VmBody::create(
      environment, plan_body(plan.name, spec, largest_writable_disk(spec), {}), *shell, ignored));
  TRY(shell->body_->launch());
  TRY(shell->body_->configure(parked(plan, kvm.ref()), call));
  return shell;
}

void Shell::on_monitor_end(VmBody& body, MonitorEnd end) {
  body.give_back();
  has_ended_ = true;
  ended_(this, describe_end(end));
}

}  // namespace mayfly::daemon
