// SPDX-License-Identifier: Apache-2.0
//
// How a VM comes to be: everything it needs is opened here, since its monitor opens nothing. It
// gets a body of its own, or a shell that waited for it.
#include "base/clock.h"
#include "base/log.h"
#include "daemon/disk_limits.h"
#include "daemon/random.h"
#include "daemon/vm.h"
#include "snapshot/disk_file_sys.h"

#include <algorithm>
#include <chrono>

#include <fcntl.h>

namespace mayfly::daemon {

namespace {

constexpr auto kLaunchLimit = std::chrono::seconds(60);

/// The monitor's steps, of which some were not taken. In which order they come is its to decide.
void add_laps(std::vector<std::pair<const char*, uint64_t>> steps, Stopwatch& stopwatch) {
  std::ranges::sort(steps, {}, [](const auto& step) { return step.second; });
  for (const auto& [name, end_ns] : steps) {
    if (end_ns != 0) stopwatch.lap_at(name, end_ns);
  }
}

/// Copies of what was captured, each for this VM alone.
Result<> make_own_disks(const VmSpec& spec, const RestoreSource& source, SpecFiles& files,
                        const Call& call) {
  const std::vector<const DiskSpec*> disks = all_disks(spec);
  for (size_t i = 0; i < disks.size(); ++i) {
    if (!disks[i]->own) continue;
    Fd file = TRY(snapshot::nameless_file_in(source.disk_directory));
    const auto copied =
        snapshot::copy_disk(source.disks[i].ref(), file.ref(), disks[i]->size_bytes.value_or(0),
                            [&] { return call.check("copying a disk"); });
    if (!copied) return std::unexpected(Error(copied.error()).with_context(disk_field(spec, i)));
    files.disks[i] = std::move(file);
  }
  return {};
}

Result<std::vector<WritableDisk>> writable(const VmSpec& spec, const SpecFiles& files) {
  std::vector<WritableDisk> writable;
  const std::vector<const DiskSpec*> disks = all_disks(spec);
  for (size_t i = 0; i < disks.size(); ++i) {
    if (disks[i]->read_only) continue;
    const FdRef file = files.disks[i].ref();
    writable.push_back(
        {.place = i, .file = TRY(Fd::duplicate(file)), .size_bytes = TRY(file_size(file))});
  }
  return writable;
}

RestoreParams restore_params(const RestoreSource& source, const VmSpec& spec) {
  RestoreParams params{.state = source.state.ref(),
                       .layers = {},
                       .generation_id = random_bytes(kGenerationIdBytes),
                       .is_mapped = source.missing != nullptr};
  for (const PageLayer& layer : source.layers) {
    params.layers.push_back({.memory = layer.memory.ref(), .pages = layer.pages.ref()});
  }
  params.record_touched = spec.record_working_set;
  if (!spec.record_working_set) params.copied_chunks = source.plans.of(spec.memory_policy);
  return params;
}

}  // namespace

/// What goes to the monitor; ours is closed when it has it.
struct Vm::Resources {
  SpecFiles files;
  OpenNets nets;
  Fd memory;
};

Result<> Vm::launch(const LaunchPlan& plan, const Call& call, Stopwatch& stopwatch) {
  Resources resources;
  const Call patience = call.at_most(kLaunchLimit);
  const auto build = [&]() -> Result<> {
    TRY(open(resources, plan, call));
    TRY(watch_nets());
    const uint64_t opened_ns = monotonic_ns();
    if (TRY(take_shell(plan))) {
      stopwatch.lap_at("open", opened_ns);
      stopwatch.lap("shell");
      return claim_shell(resources, plan, patience, stopwatch);
    }
    TRY(make_body(resources, stopwatch));
    return run_monitor(resources, plan, patience, stopwatch);
  };
  auto launched = build();
  if (launched) {
    publish(plan.start               ? VmState::kRunning
            : plan.source == nullptr ? VmState::kCreated
                                     : VmState::kPaused);
  } else {
    abandon();
  }
  return launched;
}

Result<> Vm::refuse(Error error) {
  abandon();
  return std::unexpected(std::move(error));
}

void Vm::publish(VmState state) {
  {
    std::lock_guard lock(mutex_);
    const bool ended =
        state_ == VmState::kStopped;  // A short life: over before its reply was read.
    state_ = VmState::kCreating;
    set_state(state);
    if (ended) {
      set_state(VmState::kStopped);
      emit_exit();
    }
    published_ = true;
  }
  changed_.notify_all();
}

Result<> Vm::open(Resources& resources, const LaunchPlan& plan, const Call& call) {
  const RestoreSource* source = plan.source;
  resources.files = source == nullptr ? TRY(open_files(spec_, environment_.agent_initrd))
                                      : TRY(open_disks(spec_));
  resources.nets = TRY(open_nets(spec_.nets, environment_.nets));
  if (source != nullptr) TRY(make_own_disks(spec_, *source, resources.files, call));
  // What comes later is the VM's own, as that of one that boots.
  const bool is_own = source == nullptr || source->missing != nullptr;
  resources.memory = is_own ? TRY(Fd::memfd("mayfly-guest", spec_.memory_mib << 20))
                            : TRY(Fd::duplicate(source->memory.ref()));
  VmMemory memory{.file = TRY(Fd::duplicate(resources.memory.ref())),
                  .is_private = !is_own,
                  .is_sealed = !is_own,
                  .base = is_own ? std::nullopt : source->base};
  std::vector<WritableDisk> disks = TRY(writable(spec_, resources.files));
  std::lock_guard lock(mutex_);
  memory_ = std::move(memory);
  is_memory_missing_ = source != nullptr && source->missing != nullptr;
  disks_ = std::move(disks);
  nets_ = std::move(resources.nets.nets);
  if (source != nullptr) {
    restored_from_ = source->origin;
    template_id_ = source->template_id;
    if (!spec_.record_working_set) copied_bytes_ = bytes_of(source->plans.of(spec_.memory_policy));
  }
  return {};
}

Result<> Vm::watch_nets() {
  for (size_t i = 0; i < nets_.size(); ++i) {
    if (!nets_[i].passt) continue;
    TRY(nets_[i].passt->watch(environment_.reactor,
                              [this, i](const std::string& how) { on_net_end(i, how); }));
  }
  return {};
}

void Vm::on_net_end(size_t place, const std::string& how) {
  std::lock_guard lock(mutex_);
  // It ends with its VM.
  if (state_ == VmState::kStopped || place >= nets_.size()) return;
  nets_[place].view.failure = how;
  log(LogLevel::kWarning, "vm %s: %s: %s", identity_.id.c_str(), net_field(place).c_str(),
      how.c_str());
}

Result<bool> Vm::take_shell(const LaunchPlan& plan) {
  while (plan.shells != nullptr) {
    const std::unique_ptr<Shell> shell = plan.shells->take();
    if (!shell) break;
    body_ = shell->release();
    if (!TRY(body_->hand_over(identity_.id, *this))) {
      body_.reset();  // It ended just now.
      continue;
    }
    std::lock_guard lock(mutex_);
    from_shell_ = true;
    copied_bytes_ = shell->copied_bytes();
    return true;
  }
  return false;
}

Result<> Vm::claim_shell(const Resources& resources, const LaunchPlan& plan, const Call& call,
                         Stopwatch& stopwatch) {
  if (plan.start) {
    std::lock_guard lock(mutex_);
    start_ns_ = stopwatch.start_ns();
  }
  const ClaimParams params{.generation_id = random_bytes(kGenerationIdBytes),
                           .guest_cid = spec_.agent ? spec_.guest_cid : 0,
                           .host_ports = {},
                           .disks = configure_disks(resources),
                           .nets = configure_nets(resources),
                           .start = plan.start};
  const ControlReply reply = TRY(body_->monitor().call(
      [&](uint64_t id) { return encode_claim(id, params); }, call, "claim a shell"));
  if (reply.phases) {
    add_laps({{"receive", reply.phases->claim_ns},
              {"devices", reply.phases->claim_devices_ns},
              {"vcpus", reply.phases->claim_vcpus_ns},
              {"run", reply.phases->running_ns}},
             stopwatch);
  }
  stopwatch.lap("reply");
  return {};
}

Result<> Vm::make_body(const Resources& resources, Stopwatch& stopwatch) {
  body_ = TRY(VmBody::create(environment_,
                             plan_body(identity_.id, spec_, resources.files.largest_writable_disk,
                                       TRY(device_limits(spec_, resources.files))),
                             *this, stopwatch));
  return {};
}

std::vector<ConfigureDisk> Vm::configure_disks(const Resources& resources) const {
  std::vector<ConfigureDisk> out;
  const std::vector<const DiskSpec*> disks = all_disks(spec_);
  for (size_t i = 0; i < disks.size(); ++i) {
    out.push_back({.fd = resources.files.disks[i].ref(),
                   .read_only = disks[i]->read_only,
                   .serial = disks[i]->serial});
  }
  return out;
}

std::vector<ConfigureNet> Vm::configure_nets(const Resources& resources) const {
  std::vector<ConfigureNet> out;
  for (size_t i = 0; i < nets_.size(); ++i) {
    const NetView& net = nets_[i].view;
    const FdRef file = resources.nets.files[i].ref();
    out.push_back({.tap = net.user_mode ? FdRef() : file,
                   .stream = net.user_mode ? file : FdRef(),
                   .mac = net.mac,
                   .mtu = net.mtu});
  }
  return out;
}

ConfigureParams Vm::configure_params(const Resources& resources, const LaunchPlan& plan) const {
  ConfigureParams params;
  params.vcpus = spec_.vcpus;
  params.memory_bytes = spec_.memory_mib << 20;
  params.memory = resources.memory.ref();
  if (plan.source == nullptr) {
    params.cmdline = cmdline_;
    params.kernel = resources.files.kernel.ref();
  } else {
    params.restore = restore_params(*plan.source, spec_);
  }
  for (const Fd& initrd : resources.files.initrds) params.initrds.push_back(initrd.ref());
  params.disks = configure_disks(resources);
  params.nets = configure_nets(resources);
  if (spec_.agent) params.guest_cid = spec_.guest_cid;
  params.start = plan.start;
  params.debug_serial = spec_.debug_serial;
  if (spec_.balloon) params.balloon = spec_.balloon->params();
  return params;
}

Result<> Vm::run_monitor(const Resources& resources, const LaunchPlan& plan, const Call& call,
                         Stopwatch& stopwatch) {
  const Fd kvm = TRY(open_kvm(environment_));
  if (plan.start) {
    std::lock_guard lock(mutex_);
    start_ns_ = stopwatch.start_ns();
  }
  TRY(body_->launch());
  stopwatch.lap("spawn");
  if (plan.source != nullptr && plan.source->missing) {
    TRY(map_memory(resources.memory.ref(), *plan.source->missing, call));
    stopwatch.lap("map-memory");
  }
  // Invalid: there is none, or nothing is recorded.
  Fd userfault_device;
  if (spec_.record_working_set) {
    if (auto device = Fd::open("/dev/userfaultfd", O_RDWR)) userfault_device = *std::move(device);
  }
  ConfigureParams params = configure_params(resources, plan);
  params.kvm = kvm.ref();
  if (params.restore) params.restore->userfault_device = userfault_device.ref();
  const auto reply = body_->configure(std::move(params), call);
  if (!reply) {
    // One that was killed for its memory's sake has not said why.
    std::lock_guard lock(mutex_);
    return std::unexpected(memory_failure_ ? *memory_failure_ : reply.error());
  }
  if (reply->phases) {
    const MonitorPhases& phases = *reply->phases;
    add_laps({{"monitor-start", phases.main_ns},
              {"receive", phases.received_ns},
              {"memory", phases.memory_ns},
              {"vm", phases.vm_ns},
              {"kernel", phases.kernel_ns},
              {"devices", phases.devices_ns},
              {"vcpus", phases.vcpus_ns},
              {"run", phases.running_ns}},
             stopwatch);
  }
  stopwatch.lap("reply");
  return {};
}

void Vm::abandon() {
  end_fill();
  body_.reset();            // Killed and reaped, no hook runs any more.
  std::vector<VmNet> nets;  // Theirs may: they go without the lock.
  {
    std::lock_guard lock(mutex_);
    state_ = VmState::kStopped;
    launch_failed_ = true;
    published_ = true;
    memory_.file.reset();
    disks_.clear();
    nets.swap(nets_);
  }
  changed_.notify_all();
}

}  // namespace mayfly::daemon
