// SPDX-License-Identifier: Apache-2.0
//
// A machine's state and memory out of it, and a machine from them.
#include "base/clock.h"
#include "snapshot/state_codec.h"
#include "vmm/boot/acpi.h"
#include "vmm/boot/layout.h"
#include "vmm/boot/vmclock.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/memory_layer_sys.h"
#include "vmm/machine/memory_pages.h"
#include "vmm/machine/touched_pages_sys.h"

#include <utility>

namespace mayfly {
namespace {

Result<snapshot::MachineState> read_state(FdRef file) {
  const uint64_t bytes = TRY(file_size(file));
  if (bytes > snapshot::kMaxStateBytes) {
    return fail({Code::kDataLoss, "PART_SIZE"}, "%llu bytes are above the limit of %llu",
                static_cast<unsigned long long>(bytes),
                static_cast<unsigned long long>(snapshot::kMaxStateBytes));
  }
  std::vector<std::byte> part(bytes);
  TRY(pread_exact(file, part, 0));
  return snapshot::decode_state(part);
}

template <typename T>
Result<T> with_context(Result<T> result, const std::string& context) {
  if (result) return result;
  return std::unexpected(std::move(result).error().with_context(context));
}

// From number `first` on: what a parked machine lacks must be what its claim brings.
Result<> expect_claimed(std::span<const snapshot::Device> devices, uint32_t first) {
  constexpr size_t kMostClaimed = kMaxDisks + kMaxNets;
  if (devices.size() < first || devices.size() - first > kMostClaimed) {
    return fail({Code::kFailedPrecondition, "DEVICE_COUNT"},
                "devices: the state has %zu, the configuration has %u and a claim brings up to %zu",
                devices.size(), first, kMostClaimed);
  }
  for (size_t index = first; index < devices.size(); ++index) {
    const auto& device = devices[index].device;
    if (std::holds_alternative<virtio::net::State>(device)) continue;
    if (std::holds_alternative<virtio::blk::State>(device)) continue;
    return fail({Code::kFailedPrecondition, "DEVICE_KIND"},
                "devices[%zu]: is none of the configuration, and none of a claim's", index);
  }
  return {};
}

}  // namespace

Result<snapshot::MachineState> Machine::saved_state(const MachineConfig& config) {
  snapshot::MachineState state =
      TRY(with_context(read_state(config.restore->state.ref()), "restore.state_fd"));
  if (state.vcpus.size() != config.vcpu_count) {
    return fail({Code::kFailedPrecondition, "VCPU_COUNT"},
                "restore.state_fd: has %zu vCPUs, the configuration has %u", state.vcpus.size(),
                config.vcpu_count);
  }
  if (config.restore->parks) {
    TRY(with_context(expect_claimed(state.devices, virtio_device_count(config)),
                     "restore.state_fd"));
  }
  return state;
}

Result<> Machine::restore(const RestoreConfig& config, const snapshot::MachineState& saved) {
  std::vector<kvm::Vcpu> vcpus = TRY(with_context(create_vcpus(saved), "restore.state_fd"));
  if (config.parks) return park(std::move(vcpus), saved);
  // Their threads confine themselves while the rest is restored here; none runs before start().
  vcpus_ = TRY(VcpuGroup::create(std::move(vcpus), *this));
  TRY(restore_memory(config));
  TRY(with_context(restore_devices(saved), "restore.state_fd"));
  TRY(with_context(restore_vcpus(vcpus_->vcpus(), saved), "restore.state_fd"));
  TRY(with_context(restore_time(waiting_for(saved)), "restore.state_fd"));
  TRY(tell_of_restore(config.generation_id));
  state_ = State::kPaused;
  return {};
}

// The threads come last here: they prepare what the vCPUs are, and have time for it.
Result<> Machine::park(std::vector<kvm::Vcpu> vcpus, const snapshot::MachineState& saved) {
  TRY(restore_memory(*config_.restore));
  TRY(with_context(restore_devices(saved), "restore.state_fd"));
  TRY(with_context(restore_vcpus(vcpus, saved), "restore.state_fd"));
  // Its page is the machine's own from here on, which so costs the claim nothing.
  TRY(boot::write_generation_id(*memory_, TRY(boot::read_generation_id(*memory_))));
  waiting_ = std::make_unique<Waiting>(waiting_for(saved));
  vcpus_ = TRY(VcpuGroup::create(std::move(vcpus), *this, VcpuGroup::First::kWarmUp));
  state_ = State::kParked;
  return {};
}

Machine::Waiting Machine::waiting_for(const snapshot::MachineState& saved) const {
  Waiting waiting{.vcpus = {}, .devices = {}, .clock_ns = saved.clock.clock_ns};
  for (const snapshot::Vcpu& vcpu : saved.vcpus) waiting.vcpus.push_back(time_of(vcpu.state));
  waiting.devices.assign(saved.devices.begin() + devices_->count(), saved.devices.end());
  return waiting;
}

// After the local APICs, which take the interrupt.
Result<> Machine::tell_of_restore(const std::optional<boot::GenerationId>& id) {
  if (!id) return {};
  TRY(boot::disrupt_vmclock(*memory_, TRY(draw_markers())));
  TRY(boot::write_generation_id(*memory_, *id));
  ioapic_.raise(boot::kGenerationIdGsi);
  return {};
}

Result<> Machine::claim(ClaimConfig config) {
  TRY(expect(State::kParked, "claim"));
  phases_.claim_ns = monotonic_ns();
  Result<> taken = take_claim(config);
  if (!taken) end(ExitReason::kMonitorError, taken.error().message());
  return taken;
}

Result<> Machine::take_claim(ClaimConfig& config) {
  const uint32_t first_claimed = devices_->count();
  TRY(devices_->claim(config, waiting_->devices));
  devices_->add_to(mmio_, first_claimed);
  phases_.claim_devices_ns = monotonic_ns();
  TRY(restore_time(*waiting_));
  TRY(tell_of_restore(config.generation_id));
  phases_.claim_vcpus_ns = monotonic_ns();
  waiting_.reset();
  state_ = State::kPaused;
  return {};
}

Result<> Machine::restore_memory(const RestoreConfig& config) {
  for (size_t index = 0; index < config.layers.size(); ++index) {
    TRY(with_context(read_layer(*memory_, config.layers[index]),
                     format("restore.layers[%zu]", index)));
  }
  return {};
}

Result<std::vector<kvm::Vcpu>> Machine::create_vcpus(const snapshot::MachineState& state) {
  std::vector<kvm::Vcpu> vcpus;
  vcpus.reserve(state.vcpus.size());
  for (uint32_t index = 0; index < state.vcpus.size(); ++index) {
    vcpus.push_back(TRY(
        with_context(create_vcpu(index, state.vcpus[index].cpuid), format("vcpus[%u]", index))));
  }
  return vcpus;
}

Result<> Machine::restore_devices(const snapshot::MachineState& state) {
  ioapic_.restore(state.ioapic);
  // What the guest had asked of them waits for resume().
  devices_->freeze();
  std::span<const snapshot::Device> devices = state.devices;
  // Disks come with the claim.
  if (config_.restore->parks) devices = devices.first(devices_->count());
  return devices_->restore(devices);
}

Result<> Machine::restore_vcpus(std::vector<kvm::Vcpu>& vcpus,
                                const snapshot::MachineState& state) {
  for (kvm::Vcpu& vcpu : vcpus) {
    TRY(with_context(vcpu.restore(state.vcpus[vcpu.index()].state),
                     format("vcpus[%u]", vcpu.index())));
  }
  return {};
}

// Last of all: a machine that waited between the rest and this has not missed anything.
Result<> Machine::restore_time(const Waiting& waiting) {
  for (kvm::Vcpu& vcpu : vcpus_->vcpus()) {
    TRY(with_context(vcpu.restore_time(waiting.vcpus[vcpu.index()]),
                     format("vcpus[%u]", vcpu.index())));
  }
  return vm_->set_clock(waiting.clock_ns);
}

Result<snapshot::MachineState> Machine::state() {
  snapshot::MachineState state;
  for (const kvm::Vcpu& vcpu : vcpus_->vcpus()) {
    state.vcpus.push_back({.state = TRY(vcpu.save(msr_list_)), .cpuid = TRY(vcpu.cpuid())});
  }
  state.ioapic = ioapic_.save();
  state.devices = devices_->save();
  const kvm_clock_data clock = TRY(vm_->clock());
  state.clock = {.clock_ns = clock.clock,
                 .realtime_ns = clock.realtime,
                 .host_tsc = clock.host_tsc,
                 .flags = clock.flags};
  return state;
}

Result<uint64_t> Machine::save_memory(const SaveConfig& config) {
  if (const auto* changed = std::get_if<ChangedPages>(&config.memory)) {
    return write_layer({.memory = *memory_, .file = config_.memory.ref(), .pagemap = pagemap_},
                       *changed);
  }
  if (std::holds_alternative<LeftAlone>(config.memory)) return 0;
  if (Result<> left = memory_->leave(config_.memory.ref()); !left) {
    end(ExitReason::kMonitorError, left.error().message());
    return std::unexpected(std::move(left).error());
  }
  return 0;
}

Result<TouchedPages> Machine::touched_pages(const TouchedFiles& files) {
  if (!record_) {
    return fail({Code::kFailedPrecondition, "NOT_RECORDED"},
                "get_touched_pages: the machine was not restored with record_touched");
  }
  TouchedPages pages = TRY(write_touched(*memory_, pagemap_, files));
  pages.is_exact = record_->valid();
  return pages;
}

Result<Saved> Machine::save(const SaveConfig& config) {
  TRY(expect(State::kPaused, "save"));
  const bool leaves = std::holds_alternative<LeaveMemory>(config.memory);
  const bool copies = std::holds_alternative<ChangedPages>(config.memory);
  const bool is_private = memory_->sharing() == MemorySharing::kPrivate;
  if (leaves && is_private) {
    return fail({Code::kFailedPrecondition, "MEMORY_PRIVATE"},
                "save.leave_memory: the VM's memory is private, it has left it already");
  }
  if (copies && !is_private) {
    return fail({Code::kFailedPrecondition, "MEMORY_SHARED"},
                "save.changed_pages: the VM's memory is not private, there is nothing that it "
                "changed since");
  }
  TRY(expect_length(config.state.ref(), 0, "save.state_fd"));
  const uint64_t begin_ns = monotonic_ns();
  const snapshot::Sealed part = snapshot::encode_state(TRY(state()));
  TRY(with_context(write_file_at(config.state.ref(), std::as_bytes(std::span(part.bytes)), 0),
                   "save.state_fd"));
  const uint64_t state_ns = monotonic_ns();
  const uint64_t page_count = TRY(save_memory(config));
  return Saved{.tsc_khz = vcpus_->vcpus()[0].tsc_khz(),
               .page_count = page_count,
               .state_ns = state_ns - begin_ns,
               .memory_ns = monotonic_ns() - state_ns};
}

Result<PageReport> Machine::pages(const PageQuery& query) const {
  return look_at_pages(*memory_, pagemap_, query);
}

}  // namespace mayfly
