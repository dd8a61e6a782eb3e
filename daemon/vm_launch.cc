// SPDX-License-Identifier: Apache-2.0
//
// How a VM comes to be: everything it needs is opened here, since its monitor opens nothing.
#include "base/log.h"
#include "daemon/disk_limits.h"
#include "daemon/random.h"
#include "daemon/vm.h"
#include "snapshot/disk_file_sys.h"
#include "snapshot/state_codec.h"

#include <algorithm>
#include <cerrno>
#include <chrono>

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace mayfly::daemon {

namespace {

constexpr auto kLaunchLimit = std::chrono::seconds(60);
constexpr const char* kVmFiles[] = {"control.sock", "console", "exit"};

}  // namespace

/// What goes to the monitor with Configure; ours is closed when it has it.
struct Vm::Resources {
  SpecFiles files;
  // Null: it boots.
  const RestoreSource* source = nullptr;
  Fd kvm;
  // Invalid: there is none, or nothing is recorded.
  Fd userfault_device;
  Fd memory;
  Fd exit_report;
  Fd agent_port;
  // So that the control socket's path fits its address whatever the state directory's.
  Fd directory;
};

std::string Vm::file_path(const char* name) const {
  return environment_.vms_dir + "/" + identity_.id + "/" + name;
}

Result<> Vm::launch(bool start, const RestoreSource* source, const Call& call,
                    Stopwatch& stopwatch) {
  Resources resources;
  auto launched = prepare(resources, source, call);
  if (launched) {
    stopwatch.lap("open");
    launched = make_jail(resources);
  }
  if (launched) {
    stopwatch.lap("jail");
    launched = run_monitor(resources, start, call.at_most(kLaunchLimit), stopwatch);
  }
  if (launched) {
    publish(start ? VmState::kRunning : source == nullptr ? VmState::kCreated : VmState::kPaused);
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

namespace {

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

}  // namespace

Result<> Vm::open_machine_files(Resources& resources, const RestoreSource* source,
                                const Call& call) {
  resources.source = source;
  resources.files = source == nullptr ? TRY(open_files(spec_, environment_.agent_initrd))
                                      : TRY(open_disks(spec_));
  if (source != nullptr) TRY(make_own_disks(spec_, *source, resources.files, call));
  auto kvm = Fd::open(environment_.kvm_path.c_str(), O_RDWR);
  if (!kvm) {
    return fail_errno({Code::kFailedPrecondition, "KVM_MISSING"}, kvm.error().os_errno(),
                      "cannot open %s (`mayfly doctor` says more)", environment_.kvm_path.c_str());
  }
  resources.kvm = *std::move(kvm);
  if (spec_.record_working_set) {
    auto device = Fd::open("/dev/userfaultfd", O_RDWR);
    if (device) resources.userfault_device = *std::move(device);
  }
  resources.memory = source == nullptr ? TRY(Fd::memfd("mayfly-guest", spec_.memory_mib << 20))
                                       : TRY(Fd::duplicate(source->memory.ref()));
  VmMemory memory{.file = TRY(Fd::duplicate(resources.memory.ref())),
                  .is_private = source != nullptr,
                  .is_sealed = source != nullptr,
                  .base = source == nullptr ? std::nullopt : source->base};
  std::vector<WritableDisk> disks = TRY(writable(spec_, resources.files));
  std::lock_guard lock(mutex_);
  memory_ = std::move(memory);
  disks_ = std::move(disks);
  if (source != nullptr) {
    restored_from_ = source->origin;
    template_id_ = source->template_id;
    if (!spec_.record_working_set) copied_bytes_ = bytes_of(source->plans.of(spec_.memory_policy));
  }
  return {};
}

Result<> Vm::prepare(Resources& resources, const RestoreSource* source, const Call& call) {
  TRY(open_machine_files(resources, source, call));
  TRY(make_directory(resources));
  console_ = TRY(Console::create(environment_.reactor, file_path("console"), spec_.console_kib));
  if (spec_.agent) {
    auto [ours, guests] = TRY(Fd::socket_pair(SOCK_STREAM));
    TRY(set_nonblocking(ours.ref(), true));
    resources.agent_port = std::move(guests);
    agent_ = TRY(AgentLink::create(environment_.reactor, std::move(ours),
                                   [this](const AgentMessage& message) { on_agent(message); }));
  }
  return {};
}

Result<> Vm::make_directory(Resources& resources) {
  const std::string directory = environment_.vms_dir + "/" + identity_.id;
  if (::mkdir(directory.c_str(), 0700) != 0) {
    return fail_errno({Code::kFailedPrecondition, "STATE_DIR"}, errno, "make %s",
                      directory.c_str());
  }
  has_directory_ = true;
  resources.directory = TRY(Fd::open(directory.c_str(), O_PATH | O_DIRECTORY));
  resources.exit_report = TRY(Fd::open(file_path("exit").c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
  return {};
}

Result<> Vm::make_jail(const Resources& resources) {
  const uint64_t overhead_mib = memory_overhead_mib(spec_.memory_mib, spec_.console_kib);
  jail_ = TRY(environment_.jails.make(identity_.id,
                                      {.asked = spec_.limits,
                                       .default_memory_mib = spec_.memory_mib + overhead_mib,
                                       .default_pids = default_pids(spec_.vcpus),
                                       .devices = TRY(device_limits(spec_, resources.files))}));
  // The device keeps a guest inside its disk; this is for a monitor that was taken over. It saves
  // its state, and pages of its memory at their places in a file as long as that.
  jail_->limit_files(std::max({resources.files.largest_writable_disk, spec_.memory_mib << 20,
                               snapshot::kMaxStateBytes, uint64_t{kMaxExitReportBytes}}));
  return {};
}

namespace {

RestoreParams restore_params(const RestoreSource& source, const VmSpec& spec) {
  RestoreParams params{
      .state = source.state.ref(), .layers = {}, .generation_id = random_bytes(kGenerationIdBytes)};
  for (const PageLayer& layer : source.layers) {
    params.layers.push_back({.memory = layer.memory.ref(), .pages = layer.pages.ref()});
  }
  params.record_touched = spec.record_working_set;
  if (!spec.record_working_set) params.copied_chunks = source.plans.of(spec.memory_policy);
  return params;
}

}  // namespace

ConfigureParams Vm::configure_params(const Resources& resources, bool start) const {
  ConfigureParams params;
  params.vcpus = spec_.vcpus;
  params.memory_bytes = spec_.memory_mib << 20;
  params.kvm = resources.kvm.ref();
  params.memory = resources.memory.ref();
  if (resources.source == nullptr) {
    params.cmdline = cmdline_;
    params.kernel = resources.files.kernel.ref();
  } else {
    params.restore = restore_params(*resources.source, spec_);
    params.restore->userfault_device = resources.userfault_device.ref();
  }
  for (const Fd& initrd : resources.files.initrds) params.initrds.push_back(initrd.ref());
  const std::vector<const DiskSpec*> disks = all_disks(spec_);
  for (size_t i = 0; i < disks.size(); ++i) {
    params.disks.push_back({.fd = resources.files.disks[i].ref(),
                            .read_only = disks[i]->read_only,
                            .serial = disks[i]->serial});
  }
  params.console_ring = console_->ring();
  params.console_event = console_->output_event();
  params.console_input = console_->input();
  if (spec_.agent) {
    params.guest_cid = spec_.guest_cid;
    params.host_ports.push_back({.port = kAgentPort, .fd = resources.agent_port.ref()});
  }
  params.exit_report = resources.exit_report.ref();
  params.start = start;
  // Until a daemon can adopt the VMs of the one before it, a VM ends with its daemon.
  params.end_on_disconnect = true;
  params.debug_serial = spec_.debug_serial;
  return params;
}

Result<> Vm::run_monitor(Resources& resources, bool start, const Call& call, Stopwatch& stopwatch) {
  const MonitorPlan plan{
      .vmm = environment_.jails.vmm(),
      .jailer = environment_.jails.jailer(),
      .jail = jail_->plan(),
      .control_path = format("/proc/self/fd/%d/control.sock", resources.directory.number()),
      .exit_report = resources.exit_report.ref(),
  };
  {
    std::lock_guard lock(mutex_);
    if (start) start_ns_ = stopwatch.start_ns();
  }
  monitor_ = TRY(Monitor::launch(environment_.reactor, plan,
                                 [this](MonitorEnd end) { on_monitor_end(std::move(end)); }));
  jail_->launched();
  stopwatch.lap("spawn");
  const ConfigureParams params = configure_params(resources, start);
  const ControlReply reply = TRY(monitor_->call(
      [&](uint64_t id) { return encode_configure(id, params); }, call, "build the VM"));
  console_->monitor_has_it();
  if (reply.phases) {
    const MonitorPhases& phases = *reply.phases;
    std::pair<const char*, uint64_t> steps[] = {
        {"monitor-start", phases.main_ns}, {"receive", phases.received_ns},
        {"memory", phases.memory_ns},      {"vm", phases.vm_ns},
        {"kernel", phases.kernel_ns},      {"devices", phases.devices_ns},
        {"vcpus", phases.vcpus_ns},        {"run", phases.running_ns}};
    // In which order it builds is the monitor's to decide.
    std::sort(std::begin(steps), std::end(steps),
              [](const auto& a, const auto& b) { return a.second < b.second; });
    for (const auto& [name, end_ns] : steps) {
      if (end_ns != 0) stopwatch.lap_at(name, end_ns);
    }
  }
  stopwatch.lap("reply");
  return {};
}

void Vm::abandon() {
  monitor_.reset();  // Killed and reaped, no hook runs any more.
  agent_.reset();
  console_.reset();
  jail_.reset();
  remove_directory();
  {
    std::lock_guard lock(mutex_);
    state_ = VmState::kStopped;
    launch_failed_ = true;
    published_ = true;
    memory_.file.reset();
    disks_.clear();
  }
  changed_.notify_all();
}

void Vm::remove_directory() {
  if (!has_directory_) return;
  has_directory_ = false;
  for (const char* name : kVmFiles) ::unlink(file_path(name).c_str());
  const std::string directory = environment_.vms_dir + "/" + identity_.id;
  if (::rmdir(directory.c_str()) != 0) {
    log(LogLevel::kWarning, "vm %s: %s stays: errno %d", identity_.id.c_str(), directory.c_str(),
        errno);
  }
}

}  // namespace mayfly::daemon
