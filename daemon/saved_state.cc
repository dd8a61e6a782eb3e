// SPDX-License-Identifier: Apache-2.0
#include "daemon/saved_state.h"

#include "snapshot/state_codec.h"

#include <algorithm>
#include <variant>
#include <vector>

namespace mayfly::daemon {

namespace {

using ull = unsigned long long;
using BlkState = virtio::blk::State;

std::vector<const BlkState*> disks_of(const snapshot::MachineState& state) {
  std::vector<const BlkState*> disks;
  for (const snapshot::Device& device : state.devices) {
    if (const auto* disk = std::get_if<BlkState>(&device.device)) disks.push_back(disk);
  }
  return disks;
}

std::vector<snapshot::NetInfo> nets_of(const snapshot::MachineState& state) {
  std::vector<snapshot::NetInfo> nets;
  for (const snapshot::Device& device : state.devices) {
    const auto* net = std::get_if<virtio::net::State>(&device.device);
    if (net != nullptr) nets.push_back({.mtu = net->mtu});
  }
  return nets;
}

bool has_rng(const snapshot::MachineState& state) {
  return std::ranges::any_of(state.devices, [](const snapshot::Device& device) {
    return std::holds_alternative<virtio::rng::State>(device.device);
  });
}

}  // namespace

Result<snapshot::MachineState> read_saved_state(FdRef file, const VmSpec& spec) {
  const uint64_t size = TRY(file_size(file));
  if (size > snapshot::kMaxStateBytes) {
    return fail({Code::kUnavailable, "SAVED_STATE"},
                "state: the monitor wrote %llu bytes, above the limit of %llu",
                static_cast<ull>(size), static_cast<ull>(snapshot::kMaxStateBytes));
  }
  std::vector<std::byte> bytes(size);
  TRY(pread_exact(file, bytes, 0));
  auto state = snapshot::decode_state(bytes);
  if (!state) {
    return fail({Code::kUnavailable, "SAVED_STATE"}, "the monitor wrote no state: %s",
                state.error().message().c_str());
  }
  const std::vector<const DiskSpec*> disks = all_disks(spec);
  const std::vector<const BlkState*> saved = disks_of(*state);
  if (state->vcpus.size() != spec.vcpus || saved.size() != disks.size()) {
    return fail({Code::kUnavailable, "SAVED_STATE"},
                "state: the monitor wrote %zu vCPUs and %zu disks, where there are %u and %zu",
                state->vcpus.size(), saved.size(), spec.vcpus, disks.size());
  }
  if (nets_of(*state).size() != spec.nets.size()) {
    return fail({Code::kUnavailable, "SAVED_STATE"},
                "state: the monitor wrote %zu network devices, where there are %zu",
                nets_of(*state).size(), spec.nets.size());
  }
  for (size_t i = 0; i < disks.size(); ++i) {
    if (saved[i]->read_only == disks[i]->read_only) continue;
    return fail({Code::kUnavailable, "SAVED_STATE"},
                "state: the monitor has read_only wrong of disk %zu", i);
  }
  return state;
}

Result<Fd> state_file(const snapshot::MachineState& state) {
  const snapshot::Sealed part = snapshot::encode_state(state);
  Fd file = TRY(Fd::memfd("mayfly-state", 0));
  TRY(write_all(file.ref(), std::as_bytes(std::span(part.bytes))));
  TRY(seal_memfd(file.ref()));
  return file;
}

snapshot::MachineInfo machine_info(const VmSpec& spec, const std::string& cmdline,
                                   const snapshot::MachineState& state) {
  snapshot::MachineInfo machine{.vcpu_count = spec.vcpus,
                                .memory_bytes = spec.memory_mib << 20,
                                .command_line = cmdline,
                                .disks = {},
                                .guest_cid = spec.agent ? spec.guest_cid : 0,
                                .has_rng = has_rng(state),
                                .has_agent = spec.agent,
                                .nets = nets_of(state)};
  if (spec.balloon) machine.balloon = spec.balloon->options;
  const std::vector<const DiskSpec*> disks = all_disks(spec);
  const std::vector<const BlkState*> saved = disks_of(state);
  for (size_t i = 0; i < disks.size(); ++i) {
    machine.disks.push_back({.size_bytes = saved[i]->capacity_sectors * kSectorBytes,
                             .read_only = disks[i]->read_only,
                             .serial = disks[i]->serial});
  }
  return machine;
}

Result<> mark_captured(std::span<const DiskCapture> captures, snapshot::MachineInfo& machine) {
  for (const DiskCapture& capture : captures) {
    snapshot::DiskInfo& disk = machine.disks[capture.place];
    const uint64_t copied = TRY(file_size(capture.to));
    if (disk.size_bytes != copied) {
      return fail({Code::kUnavailable, "SAVED_STATE"},
                  "state: the monitor says that disk %zu has %llu bytes, it has %llu",
                  capture.place, static_cast<ull>(disk.size_bytes), static_cast<ull>(copied));
    }
    disk.captured = true;
  }
  return {};
}

Result<VmSpec> spec_of(const snapshot::MachineInfo& machine) {
  if (machine.memory_bytes % (uint64_t{1} << 20) != 0) {
    return fail({Code::kFailedPrecondition, "MEMORY_SIZE"},
                "the snapshot's memory of %llu bytes is no whole number of MiB",
                static_cast<ull>(machine.memory_bytes));
  }
  VmSpec spec;
  spec.vcpus = machine.vcpu_count;
  spec.memory_mib = machine.memory_bytes >> 20;
  spec.cmdline = machine.command_line;
  spec.replace_cmdline = true;
  spec.agent = machine.has_agent;
  if (machine.balloon) spec.balloon = BalloonSpec{.target_mib = 0, .options = *machine.balloon};
  for (const snapshot::DiskInfo& disk : machine.disks) {
    spec.disks.push_back({.path = {},
                          .read_only = disk.read_only,
                          .serial = disk.serial,
                          .limits = {},
                          .size_bytes = disk.size_bytes,
                          .own = disk.captured});
  }
  for (const snapshot::NetInfo& net : machine.nets) {
    NetSpec& added = spec.nets.emplace_back();
    added.automatic = true;
    added.saved_mtu = net.mtu;
  }
  return spec;
}

}  // namespace mayfly::daemon
