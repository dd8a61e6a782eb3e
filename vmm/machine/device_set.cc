// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/device_set.h"

#include "base/clock.h"
#include "virtio/balloon/backend.h"
#include "virtio/blk/uring_backend.h"
#include "virtio/console/loop_input.h"
#include "virtio/console/ring_sink.h"
#include "virtio/net/stream_sys.h"
#include "virtio/net/tap_sys.h"
#include "vmm/boot/layout.h"

#include <algorithm>
#include <mutex>
#include <utility>

namespace mayfly {
namespace {

void add_counters(const virtio::blk::Counters& disk, MachineStats& stats) {
  stats.disk_reads += disk.reads;
  stats.disk_read_bytes += disk.read_bytes;
  stats.disk_writes += disk.writes;
  stats.disk_written_bytes += disk.written_bytes;
  stats.disk_flushes += disk.flushes;
  stats.disk_errors += disk.errors;
}

void add_counters(const virtio::net::Counters& net, MachineStats& stats) {
  stats.net_rx_frames += net.rx_frames;
  stats.net_rx_bytes += net.rx_bytes;
  stats.net_tx_frames += net.tx_frames;
  stats.net_tx_bytes += net.tx_bytes;
  stats.net_dropped += net.rx_dropped + net.tx_dropped;
}

}  // namespace

Result<std::unique_ptr<DeviceSet>> DeviceSet::create(const Parts& parts) {
  std::unique_ptr<DeviceSet> set(new DeviceSet(parts));
  TRY(set->add_console());
  if (parts.config.has_rng) {
    TRY(set->add(
        std::make_unique<virtio::rng::Rng>(std::make_unique<virtio::rng::KernelEntropy>())));
  }
  TRY(set->add_vsock());
  TRY(set->add_balloon());
  TRY(set->add_nets(parts.config.nets));
  TRY(set->add_disks(parts.config.disks));
  return set;
}

template <typename T>
Result<> DeviceSet::add(std::unique_ptr<T> device) {
  // Every count in a config has its own, smaller limit.
  CHECK(places_.size() < boot::kMaxVirtioDevices);
  T* const kind = device.get();
  auto slot = TRY(VirtioSlot::create(
      {
          .index = count(),
          .memory = parts_.memory,
          .loop = parts_.loop,
          .vm = parts_.vm,
          .ioapic = parts_.ioapic,
          .ending = parts_.ending,
      },
      std::move(device)));
  places_.push_back({std::move(slot), kind});
  return {};
}

Result<> DeviceSet::add_console() {
  using namespace virtio::console;
  std::unique_ptr<ConsoleInput> input;
  if (parts_.config.console.input.valid()) {
    input = TRY(LoopInput::create(parts_.loop, std::move(parts_.config.console.input)));
  }
  return add(
      std::make_unique<Console>(std::make_unique<RingSink>(parts_.console_ring), std::move(input)));
}

Result<> DeviceSet::add_vsock() {
  if (!parts_.config.vsock) return {};
  VsockConfig& config = *parts_.config.vsock;
  // A parked machine's comes with the claim, before any guest sees it.
  const bool parks = parts_.config.restore && parts_.config.restore->parks;
  const uint64_t cid = parks ? kMinGuestCid : config.guest_cid;
  auto vsock = TRY(virtio::vsock::Vsock::create(parts_.loop, cid));
  vsock_ = vsock.get();
  TRY(add(std::move(vsock)));
  return add_host_ports(config);
}

Result<> DeviceSet::add_host_ports(VsockConfig& config) {
  for (VsockHostPort& port : config.host_ports) {
    TRY(vsock_->add_host_port(port.port, std::move(port.stream)));
  }
  return {};
}

Result<> DeviceSet::add_balloon() {
  using namespace virtio::balloon;
  if (!parts_.config.balloon) return {};
  const auto& restore = parts_.config.restore;
  const auto policy =
      restore && restore->is_mapped ? RamTaker::Policy::kKeep : RamTaker::Policy::kRelease;
  auto balloon = std::make_unique<Balloon>(
      std::make_unique<RamTaker>(parts_.memory, policy), parts_.config.balloon->options,
      static_cast<uint32_t>(parts_.config.balloon->target_pages));
  balloon_ = balloon.get();
  return add(std::move(balloon));
}

Result<std::unique_ptr<virtio::net::Backend>> DeviceSet::open_net(NetConfig& config) {
  if (config.stream.valid()) {
    return TRY(virtio::net::Stream::create(parts_.loop, std::move(config.stream)));
  }
  return TRY(virtio::net::Tap::create(parts_.loop, std::move(config.tap)));
}

Result<> DeviceSet::add_nets(std::vector<NetConfig>& nets) {
  size_t index = 0;
  for (NetConfig& config : nets) {
    auto backend = open_net(config);
    auto net = backend ? virtio::net::Net::create(*std::move(backend), config.mac, config.mtu)
                       : std::unexpected(std::move(backend).error());
    if (!net) {
      return std::unexpected(std::move(net).error().with_context(format("nets[%zu]", index)));
    }
    ++index;
    TRY(add(*std::move(net)));
  }
  return {};
}

Result<> DeviceSet::add_disks(std::vector<DiskConfig>& disks) {
  size_t index = 0;
  for (DiskConfig& disk : disks) {
    const auto access = disk.access == DiskAccess::kReadOnly ? virtio::blk::Access::kReadOnly
                                                             : virtio::blk::Access::kReadWrite;
    auto backend = virtio::blk::UringBackend::create(parts_.loop, std::move(disk.file), access);
    auto blk = backend ? virtio::blk::Blk::create(*std::move(backend), disk.serial)
                       : std::unexpected(std::move(backend).error());
    if (!blk) {
      return std::unexpected(std::move(blk).error().with_context(format("disks[%zu]", index)));
    }
    ++index;
    TRY(add(*std::move(blk)));
  }
  return {};
}

void DeviceSet::add_to(Bus& mmio, uint32_t first) const {
  for (uint32_t index = first; index < count(); ++index) {
    mmio.add(boot::kVirtioMmio.value + index * boot::kVirtioMmioStride, boot::kVirtioMmioStride,
             *places_[index].slot);
  }
}

void DeviceSet::freeze() {
  const std::lock_guard held(parts_.loop.lock());
  for (const Place& place : places_) place.slot->transport().freeze();
}

void DeviceSet::thaw() {
  const std::lock_guard held(parts_.loop.lock());
  for (const Place& place : places_) place.slot->transport().thaw();
}

void DeviceSet::serve_all() {
  const std::lock_guard held(parts_.loop.lock());
  for (const Place& place : places_) place.slot->serve_all();
}

bool DeviceSet::idle() {
  const std::lock_guard held(parts_.loop.lock());
  for (const Place& place : places_) {
    if (!place.slot->device().idle()) return false;
  }
  return true;
}

bool DeviceSet::has_unsent() {
  const std::lock_guard held(parts_.loop.lock());
  return vsock_ != nullptr && vsock_->unsent_bytes() > 0;
}

std::vector<snapshot::Device> DeviceSet::save() const {
  const std::lock_guard held(parts_.loop.lock());
  std::vector<snapshot::Device> states;
  for (const Place& place : places_) {
    snapshot::Device& state = states.emplace_back();
    state.transport = place.slot->transport().save();
    std::visit([&](const auto* device) { state.device = device->save(); }, place.device);
  }
  return states;
}

Result<> DeviceSet::restore_place(const Place& place, const snapshot::Device& state) {
  TRY(std::visit(
      [&](auto* device) -> Result<> {
        const auto* own = std::get_if<decltype(device->save())>(&state.device);
        if (own == nullptr) {
          return fail({Code::kFailedPrecondition, "DEVICE_KIND"},
                      "is of type %u here, and of another in the state",
                      static_cast<uint32_t>(device->type()));
        }
        return device->restore(*own);
      },
      place.device));
  return place.slot->transport().restore(state.transport);
}

Result<> DeviceSet::restore(std::span<const snapshot::Device> states, uint32_t first) {
  if (states.size() != places_.size() - first) {
    return fail({Code::kFailedPrecondition, "DEVICE_COUNT"},
                "devices: the state has %zu, the configuration has %zu", first + states.size(),
                places_.size());
  }
  const std::lock_guard held(parts_.loop.lock());
  for (size_t index = first; index < places_.size(); ++index) {
    if (Result<> restored = restore_place(places_[index], states[index - first]); !restored) {
      return std::unexpected(
          std::move(restored).error().with_context(format("devices[%zu]", index)));
    }
  }
  if (first == 0 && vsock_ != nullptr) vsock_->reset_transport();
  for (size_t index = first; index < places_.size(); ++index) {
    const auto* net = std::get_if<virtio::net::Net*>(&places_[index].device);
    if (net != nullptr) (*net)->announce();
  }
  return {};
}

Result<> DeviceSet::claim_vsock(ClaimConfig& config) {
  if (config.vsock.has_value() != (vsock_ != nullptr)) {
    return fail({Code::kFailedPrecondition, "CLAIM_VSOCK"},
                vsock_ != nullptr ? "claim.vsock: the machine has a vsock device and needs a CID"
                                  : "claim.vsock: the machine has no vsock device");
  }
  if (vsock_ == nullptr) return {};
  TRY(vsock_->set_guest_cid(config.vsock->guest_cid));
  return add_host_ports(*config.vsock);
}

Result<> DeviceSet::claim(ClaimConfig& config, std::span<const snapshot::Device> states) {
  const auto nets = static_cast<size_t>(std::ranges::count_if(states, [](const auto& state) {
    return std::holds_alternative<virtio::net::State>(state.device);
  }));
  if (config.nets.size() != nets) {
    return fail({Code::kFailedPrecondition, "NET_COUNT"}, "claim.nets: %zu came, the state has %zu",
                config.nets.size(), nets);
  }
  const size_t disks = states.size() - nets;
  if (config.disks.size() != disks) {
    return fail({Code::kFailedPrecondition, "DISK_COUNT"},
                "claim.disks: %zu came, the state has %zu", config.disks.size(), disks);
  }
  const uint32_t first = count();
  {
    const std::lock_guard held(parts_.loop.lock());
    TRY(claim_vsock(config));
    TRY(add_nets(config.nets));
    TRY(add_disks(config.disks));
  }
  freeze();
  return restore(states, first);
}

Result<> DeviceSet::connect_vsock(uint32_t port, Fd stream) {
  if (vsock_ == nullptr) {
    return fail({Code::kFailedPrecondition, "NO_VSOCK"},
                "vsock_connect: the VM has no vsock device");
  }
  const std::lock_guard held(parts_.loop.lock());
  return vsock_->connect(port, std::move(stream));
}

Result<> DeviceSet::need_balloon(const char* what) const {
  if (balloon_ != nullptr) return {};
  return fail({Code::kFailedPrecondition, "NO_BALLOON"}, "%s: the VM has no balloon", what);
}

Result<> DeviceSet::set_balloon(uint32_t target_pages) {
  TRY(need_balloon("set_balloon"));
  const std::lock_guard held(parts_.loop.lock());
  balloon_->set_target(target_pages);
  return {};
}

Result<BalloonReport> DeviceSet::balloon() const {
  TRY(need_balloon("get_balloon"));
  const std::lock_guard held(parts_.loop.lock());
  const virtio::balloon::Stats& stats = balloon_->stats();
  return BalloonReport{.target_pages = balloon_->target_pages(),
                       .actual_pages = balloon_->actual_pages(),
                       .counters = balloon_->counters(),
                       .stats = stats,
                       .stats_age_ns = stats.at_ns == 0 ? 0 : monotonic_ns() - stats.at_ns};
}

uint32_t DeviceSet::stats_interval_s() const {
  return balloon_ == nullptr ? 0 : balloon_->options().stats_interval_s;
}

void DeviceSet::ask_for_stats() {
  const std::lock_guard held(parts_.loop.lock());
  if (balloon_ != nullptr) balloon_->ask_for_stats();
}

MachineStats DeviceSet::stats() const {
  const std::lock_guard held(parts_.loop.lock());
  MachineStats stats;
  for (const Place& place : places_) {
    if (const auto* disk = std::get_if<virtio::blk::Blk*>(&place.device)) {
      add_counters((*disk)->counters(), stats);
    } else if (const auto* net = std::get_if<virtio::net::Net*>(&place.device)) {
      add_counters((*net)->counters(), stats);
    }
  }
  if (vsock_ != nullptr) {
    stats.vsock_rx_bytes = vsock_->counters().rx_bytes;
    stats.vsock_tx_bytes = vsock_->counters().tx_bytes;
  }
  stats.console_bytes = parts_.console_ring.written();
  return stats;
}

}  // namespace mayfly
