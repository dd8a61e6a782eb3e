// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/machine.h"

#include "base/clock.h"
#include "base/log.h"
#include "virtio/rng/backend.h"
#include "vmm/boot/acpi.h"
#include "vmm/boot/cpu_start_x86.h"
#include "vmm/boot/kernel.h"
#include "vmm/boot/layout.h"
#include "vmm/kvm/cpuid_x86.h"
#include "vmm/machine/touched_pages_sys.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace mayfly {
namespace {

// How long a machine that has ended waits for peers to take what the guest sent them.
constexpr uint64_t kLastWordsNs = 1'000'000'000;

// How long a guest whose kernel panicked may still print and reset itself.
constexpr uint64_t kPanicGraceNs = 1'000'000'000;
constexpr uint64_t kSecondNs = 1'000'000'000;
constexpr const char* kPanicText = "the guest's kernel reported a panic";

}  // namespace

Machine::Machine(Loop& loop, FdRef pagemap, MachineConfig config, Phases phases,
                 vmm::Confinement confinement, uint32_t virtio_devices)
    : loop_(loop),
      pagemap_(pagemap),
      config_(std::move(config)),
      phases_(phases),
      confinement_(confinement),
      ioapic_(*this, boot::kFirstVirtioGsi + virtio_devices),
      exits_(config_.vcpu_count) {}

// vCPU threads call into the devices and buses: they go first.
Machine::~Machine() { vcpus_.reset(); }

Result<std::unique_ptr<Machine>> Machine::create(Loop& loop, FdRef pagemap, MachineConfig config,
                                                 Phases phases, vmm::Confinement confinement) {
  std::optional<snapshot::MachineState> saved;
  if (config.restore) saved = TRY(saved_state(config));
  const bool parks = config.restore && config.restore->parks;
  const size_t devices = parks ? saved->devices.size() : virtio_device_count(config);
  std::unique_ptr<Machine> machine(new Machine(loop, pagemap, std::move(config), phases,
                                               confinement, static_cast<uint32_t>(devices)));
  if (Result<> built = machine->build(saved ? &*saved : nullptr); !built) {
    // A vCPU's thread has no calls to end with: those that wait already go with the process, as
    // the caller has promised.
    (void)machine.release();
    return std::unexpected(std::move(built).error());
  }
  return machine;
}

Result<> Machine::build(const snapshot::MachineState* saved) {
  const auto sharing = config_.restore ? config_.restore->sharing : MemorySharing::kShared;
  memory_.emplace(
      config_.ram ? std::move(*config_.ram)
                  : TRY(GuestMemory::create(config_.memory.ref(), config_.memory_bytes, sharing)));
  // Before there is a VM that would have to be told of each mapping.
  if (config_.restore) {
    const std::vector<ChunkRun>& copied = config_.restore->copied_chunks;
    if (!copied.empty()) TRY(memory_->copy_chunks(config_.memory.ref(), copied));
    if (const auto& record = config_.restore->record) {
      record_.emplace(begin_record(*memory_, record->userfault_device.ref()));
    }
  }
  phases_.memory_ns = monotonic_ns();
  kvm_.emplace(TRY(kvm::Kvm::create(config_.kvm.ref())));
  // For save(), whose filter lets it ask KVM itself for nothing.
  msr_list_ = TRY(kvm_->msr_list());
  vm_.emplace(TRY(kvm_->create_vm()));
  TRY(build_vm());
  phases_.vm_ns = monotonic_ns();
  TRY(build_devices());
  phases_.devices_ns = monotonic_ns();
  TRY(saved != nullptr ? restore(*config_.restore, *saved) : boot());
  phases_.vcpus_ns = monotonic_ns();
  // What was loaded is in guest RAM; the files need not stay open.
  config_.kernel.reset();
  config_.initrds.clear();
  config_.restore.reset();
  return {};
}

// The order is the floor's: RAM before the interrupt controller, and never again (docs/boot.md).
Result<> Machine::build_vm() {
  TRY(vm_->set_memory(*memory_));
  return vm_->enable_split_irqchip();
}

Result<> Machine::build_devices() {
  console_ring_.emplace(TRY(
      ConsoleRingWriter::create(config_.console.ring.ref(), config_.console.output_event.ref())));
  {
    const std::lock_guard held(loop_.lock());
    devices_ = TRY(DeviceSet::create({
        .config = config_,
        .memory = *memory_,
        .loop = loop_,
        .vm = *vm_,
        .ioapic = ioapic_,
        .console_ring = *console_ring_,
        .ending = ending_,
    }));
    CHECK(devices_->count() == virtio_device_count(config_));
  }
  devices_->add_to(mmio_);
  mmio_.add(boot::kIoapic.value, boot::kIoapicSize, ioapic_);
  power_ports_.add_to(ports_);
  if (config_.has_debug_serial) {
    ports_.add(boot::kSerialPort, DebugSerial::kPortCount, debug_serial_);
  }
  return {};
}

Result<kvm::Vcpu> Machine::create_vcpu(uint32_t index, const kvm::CpuidTable& cpuid) {
  kvm::Vcpu vcpu = TRY(kvm::Vcpu::create(*kvm_, TRY(vm_->create_vcpu(index)), index));
  TRY(vcpu.set_cpuid(cpuid));
  return vcpu;
}

Result<boot::VmClockMarkers> Machine::draw_markers() {
  boot::VmClockMarkers markers;
  TRY(virtio::rng::KernelEntropy().fill(std::as_writable_bytes(std::span(&markers, 1))));
  return markers;
}

Result<> Machine::boot() {
  std::vector<FdRef> initrds;
  for (const Fd& initrd : config_.initrds) initrds.push_back(initrd.ref());
  const boot::Entry entry =
      TRY(boot::load_kernel(*memory_, {
                                          .kernel = config_.kernel.ref(),
                                          .initrds = initrds,
                                          .command_line = config_.command_line,
                                      }));
  boot::GenerationId generation_id;
  TRY(virtio::rng::KernelEntropy().fill(generation_id));
  TRY(boot::load_acpi_tables(*memory_, {.vcpu_count = config_.vcpu_count,
                                        .virtio_device_count = virtio_device_count(config_),
                                        .generation_id = generation_id}));
  TRY(boot::load_vmclock(*memory_, TRY(draw_markers())));
  phases_.kernel_ns = monotonic_ns();

  const kvm::CpuidTable supported = TRY(kvm_->supported_cpuid());
  std::vector<kvm::Vcpu> vcpus;
  vcpus.reserve(config_.vcpu_count);
  for (uint32_t index = 0; index < config_.vcpu_count; ++index) {
    vcpus.push_back(TRY(create_vcpu(index, kvm::cpuid_for(supported, index, config_.vcpu_count))));
  }
  TRY(boot::set_entry_state(*memory_, vcpus[0], entry));
  vcpus_ = TRY(VcpuGroup::create(std::move(vcpus), *this));
  return {};
}

Result<> Machine::expect(State state, const char* what) const {
  static constexpr const char* kNames[] = {"built", "running", "paused", "parked"};
  if (ended()) {
    return fail({Code::kFailedPrecondition, "VM_ENDED"}, "%s: the VM has ended", what);
  }
  if (state_ == state) return {};
  return fail({Code::kFailedPrecondition, "VM_STATE"}, "%s: the VM is %s, not %s", what,
              kNames[static_cast<size_t>(state_)], kNames[static_cast<size_t>(state)]);
}

Result<> Machine::start() {
  // Paused and never run: restored.
  if (state_ == State::kPaused && phases_.running_ns == 0) return resume();
  TRY(expect(State::kBuilt, "start"));
  state_ = State::kRunning;
  phases_.running_ns = monotonic_ns();
  vcpus_->run();
  return {};
}

Result<> Machine::park_vcpus() {
  vcpus_->request_park();
  while (!vcpus_->parked()) TRY(loop_.run_once());
  return {};
}

Result<> Machine::drain_devices() {
  while (!devices_->idle()) TRY(loop_.run_once());
  return {};
}

Result<> Machine::pause() {
  TRY(expect(State::kRunning, "pause"));
  TRY(park_vcpus());
  devices_->freeze();
  TRY(drain_devices());
  state_ = State::kPaused;
  return {};
}

Result<> Machine::resume() {
  TRY(expect(State::kPaused, "resume"));
  for (kvm::Vcpu& vcpu : vcpus_->vcpus()) vcpu.tell_pause();
  state_ = State::kRunning;
  if (phases_.running_ns == 0) phases_.running_ns = monotonic_ns();
  vcpus_->run();
  // A guest that is quicker asks a frozen device, which then finds what it was asked.
  devices_->thaw();
  return {};
}

Result<> Machine::connect_vsock(uint32_t port, Fd stream) {
  if (ended())
    return fail({Code::kFailedPrecondition, "VM_ENDED"}, "vsock_connect: the VM has ended");
  return devices_->connect_vsock(port, std::move(stream));
}

Result<> Machine::set_balloon(uint64_t target_pages) {
  if (ended())
    return fail({Code::kFailedPrecondition, "VM_ENDED"}, "set_balloon: the VM has ended");
  TRY(validate_target(target_pages, memory_->size()));
  return devices_->set_balloon(static_cast<uint32_t>(target_pages));
}

uint64_t Machine::stats_deadline_ns() {
  const uint32_t interval_s = devices_->stats_interval_s();
  if (interval_s == 0 || state_ != State::kRunning) return 0;
  if (stats_asked_ns_ == 0) stats_asked_ns_ = monotonic_ns();
  return stats_asked_ns_ + interval_s * kSecondNs;
}

Result<> Machine::run_once() {
  const uint64_t panic_ns = panic_deadline_ns_.load(std::memory_order_acquire);
  const uint64_t stats_ns = stats_deadline_ns();
  if (panic_ns == 0 && stats_ns == 0) return loop_.run_once();
  const uint64_t now_ns = monotonic_ns();
  if (panic_ns != 0 && now_ns >= panic_ns) {
    end(ExitReason::kGuestPanic, kPanicText);
    return {};
  }
  if (stats_ns != 0 && now_ns >= stats_ns) {
    stats_asked_ns_ = now_ns;
    devices_->ask_for_stats();
    return {};
  }
  const uint64_t none = ~uint64_t{0};
  return loop_.run_once_for(
      std::min(panic_ns != 0 ? panic_ns : none, stats_ns != 0 ? stats_ns : none) - now_ns);
}

void Machine::panicked() {
  uint64_t none = 0;
  panic_deadline_ns_.compare_exchange_strong(none, monotonic_ns() + kPanicGraceNs);
  loop_.wake();
}

void Machine::end(ExitReason reason, std::string detail) {
  const bool by_guest = reason == ExitReason::kGuestPoweroff ||
                        reason == ExitReason::kGuestReboot || reason == ExitReason::kTripleFault;
  if (by_guest && panic_deadline_ns_.load() != 0) {
    reason = ExitReason::kGuestPanic;
    detail = kPanicText;
  }
  {
    const std::lock_guard held(end_lock_);
    if (!end_) end_ = End{reason, std::move(detail), monotonic_ns()};
  }
  ending_.store(true, std::memory_order_release);
  loop_.wake();
}

Machine::End Machine::finish() {
  CHECK(ended());
  Result<> rest = park_vcpus();
  if (rest) {
    devices_->serve_all();
    rest = drain_devices();
  }
  const uint64_t deadline_ns = monotonic_ns() + kLastWordsNs;
  while (rest && devices_->has_unsent() && monotonic_ns() < deadline_ns) {
    rest = loop_.run_once_for(deadline_ns - monotonic_ns());
  }
  if (!rest) log(LogLevel::kError, "finish: %s", rest.error().describe().c_str());
  const std::lock_guard held(end_lock_);
  return *end_;
}

MachineStats Machine::stats() const {
  MachineStats stats = devices_->stats();
  for (const ExitCounts& counts : exits_) {
    stats.exits_io += counts.io.load(std::memory_order_relaxed);
    stats.exits_mmio += counts.mmio.load(std::memory_order_relaxed);
    stats.exits_halt += counts.halt.load(std::memory_order_relaxed);
    stats.exits_other += counts.other.load(std::memory_order_relaxed);
  }
  stats.interrupts = ioapic_.sent();
  return stats;
}

void Machine::on_parked() { loop_.wake(); }

void Machine::signal_msi(uint64_t address, uint32_t data) { vm_->signal_msi(address, data); }

void Machine::append(std::span<const std::byte> bytes) {
  const std::lock_guard held(loop_.lock());
  console_ring_->append(bytes);
}

bool Machine::on_thread_start() {
  const Result<> confined = confinement_.enter(vmm::ThreadKind::kVcpu);
  if (!confined) end(ExitReason::kMonitorError, confined.error().message());
  return confined.has_value();
}

bool Machine::on_exit(uint32_t index, const kvm::Exit& exit) {
  ExitCounts& counts = exits_[index];
  const auto count = [](std::atomic<uint64_t>& counter) {
    counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  };
  switch (exit.kind) {
    case kvm::ExitKind::kIo:
      count(counts.io);
      // A string instruction's accesses all go to one port, one after the other.
      for (size_t at = 0; at + exit.width <= exit.data.size() && exit.width != 0;
           at += exit.width) {
        const auto data = exit.data.subspan(at, exit.width);
        exit.write ? ports_.write(exit.port, data) : ports_.read(exit.port, data);
      }
      break;
    case kvm::ExitKind::kMmio:
      count(counts.mmio);
      exit.write ? mmio_.write(exit.address.value, exit.data)
                 : mmio_.read(exit.address.value, exit.data);
      break;
    case kvm::ExitKind::kHalt:
      count(counts.halt);
      break;
    case kvm::ExitKind::kInterrupted:
    case kvm::ExitKind::kIoapicEoi:
      count(counts.other);
      break;
    case kvm::ExitKind::kShutdown:
      end(ExitReason::kTripleFault, format("vCPU %u: triple fault", index));
      break;
    case kvm::ExitKind::kSystemEvent:
      on_system_event(exit.detail);
      break;
    case kvm::ExitKind::kError:
      on_kvm_error(index, exit);
      break;
  }
  return !ended();
}

void Machine::on_system_event(uint32_t type) {
  switch (type) {
    case KVM_SYSTEM_EVENT_SHUTDOWN:
      return end(ExitReason::kGuestPoweroff, "the guest asked KVM to shut down");
    case KVM_SYSTEM_EVENT_RESET:
      return end(ExitReason::kGuestReboot, "the guest asked KVM to reset");
    case KVM_SYSTEM_EVENT_CRASH:
      return end(ExitReason::kGuestPanic, "the guest reported a crash to KVM");
    default:
      return end(ExitReason::kKvmError, format("unknown KVM system event %u", type));
  }
}

void Machine::on_kvm_error(uint32_t index, const kvm::Exit& exit) {
  end(ExitReason::kKvmError,
      format("vCPU %u: KVM_RUN ended with %u, hardware reason or suberror 0x%llx", index,
             exit.detail, static_cast<unsigned long long>(exit.hardware_reason)));
}

}  // namespace mayfly
