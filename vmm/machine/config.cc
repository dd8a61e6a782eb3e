// SPDX-License-Identifier: Apache-2.0
#include "vmm/machine/config.h"

#include "vmm/kvm/cpuid_x86.h"

namespace mayfly {
namespace {

constexpr uint64_t kPageSize = 4096;

Result<> need(const Fd& fd, const char* field) {
  if (fd.valid()) return {};
  return fail({Code::kInvalidArgument, "DESCRIPTOR_MISSING"},
              "%s: no descriptor came with the call", field);
}

Result<> at_most(size_t count, size_t limit, const char* field) {
  if (count <= limit) return {};
  return fail({Code::kInvalidArgument, "TOO_MANY"}, "%s: %zu are over the limit of %zu", field,
              count, limit);
}

Result<> validate_memory(uint64_t bytes) {
  if (bytes >= kMinMemoryBytes && bytes <= kMaxMemoryBytes && bytes % kPageSize == 0) return {};
  return fail({Code::kInvalidArgument, "MEMORY_SIZE"},
              "memory_bytes: %llu is not a multiple of 4096 from %llu to %llu",
              static_cast<unsigned long long>(bytes),
              static_cast<unsigned long long>(kMinMemoryBytes),
              static_cast<unsigned long long>(kMaxMemoryBytes));
}

Result<> validate_host_ports(const VsockConfig& vsock) {
  TRY(at_most(vsock.host_ports.size(), kMaxVsockHostPorts, "vsock.host_ports"));
  for (const VsockHostPort& port : vsock.host_ports) TRY(need(port.stream, "vsock.host_ports.fd"));
  return {};
}

Result<> validate_vsock(const VsockConfig& vsock) {
  if (vsock.guest_cid < kMinGuestCid || vsock.guest_cid > kMaxGuestCid) {
    return fail({Code::kInvalidArgument, "GUEST_CID"},
                "vsock.guest_cid: %llu is not from %llu to %llu",
                static_cast<unsigned long long>(vsock.guest_cid),
                static_cast<unsigned long long>(kMinGuestCid),
                static_cast<unsigned long long>(kMaxGuestCid));
  }
  return validate_host_ports(vsock);
}

Result<> validate_disks(const std::vector<DiskConfig>& disks) {
  TRY(at_most(disks.size(), kMaxDisks, "disks"));
  for (const DiskConfig& disk : disks) TRY(need(disk.file, "disks.fd"));
  return {};
}

Result<> validate_nets(const std::vector<NetConfig>& nets) {
  TRY(at_most(nets.size(), kMaxNets, "nets"));
  for (const NetConfig& net : nets)
    TRY(need(net.stream.valid() ? net.stream : net.tap, "nets.tap_fd"));
  return {};
}

// A parked machine has nothing yet that only its claim can say.
Result<> validate_parked(const MachineConfig& config) {
  const char* field = !config.disks.empty()                 ? "disks"
                      : !config.nets.empty()                ? "nets"
                      : config.restore->generation_id       ? "restore.generation_id"
                      : config.start == StartMode::kRunning ? "start"
                                                            : nullptr;
  if (field == nullptr) return {};
  return fail({Code::kInvalidArgument, "PARKED"},
              "%s: comes with the claim of a machine that is parked", field);
}

Result<> validate_balloon(const BalloonConfig& balloon, uint64_t memory_bytes) {
  TRY(validate_target(balloon.target_pages, memory_bytes));
  if (balloon.options.stats_interval_s <= kMaxStatsIntervalS) return {};
  return fail({Code::kInvalidArgument, "BALLOON_STATS"},
              "balloon.stats_interval_s: %u is above the limit of %u",
              balloon.options.stats_interval_s, kMaxStatsIntervalS);
}

Result<> validate_copies(const RestoreConfig& restore, uint64_t memory_bytes) {
  const std::vector<ChunkRun>& runs = restore.copied_chunks;
  TRY(at_most(runs.size(), kMaxCopiedRuns, "restore.copied_chunks"));
  if (!runs.empty() && restore.sharing != MemorySharing::kPrivate) {
    return fail({Code::kInvalidArgument, "COPIES_SHARED"},
                "restore.copied_chunks: %zu of them are of a memory that is not private",
                runs.size());
  }
  if (restore.record && (!runs.empty() || restore.sharing != MemorySharing::kPrivate)) {
    return fail({Code::kInvalidArgument, "RECORD_TOUCHED"},
                "restore.record_touched: only with private_memory and without copied_chunks");
  }
  const uint64_t chunks = (memory_bytes + kChunkBytes - 1) / kChunkBytes;
  uint64_t free = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    const auto [first, count] = runs[i];
    if (count != 0 && first >= free && count <= chunks && first <= chunks - count) {
      free = uint64_t{first} + count;
      continue;
    }
    return fail({Code::kInvalidArgument, "COPIED_CHUNKS"},
                "restore.copied_chunks[%zu]: %u chunks at %u are none, not after those before, or "
                "beyond the %llu of RAM",
                i, count, first, static_cast<unsigned long long>(chunks));
  }
  return {};
}

Result<> validate_restore(const RestoreConfig& restore, uint64_t memory_bytes) {
  TRY(need(restore.state, "restore.state_fd"));
  TRY(validate_copies(restore, memory_bytes));
  TRY(at_most(restore.layers.size(), kMaxLayers, "restore.layers"));
  for (const MemoryLayer& layer : restore.layers) {
    TRY(need(layer.memory, "restore.layers.memory_fd"));
    TRY(need(layer.pages, "restore.layers.pages_fd"));
  }
  if (restore.is_mapped && (restore.sharing == MemorySharing::kPrivate || restore.parks)) {
    return fail({Code::kInvalidArgument, "MAPPED_PRIVATE"},
                "restore.mapped_memory: with private_memory or park, and what is mapped is the one "
                "VM's and shared");
  }
  if (restore.layers.empty() || restore.sharing == MemorySharing::kPrivate) return {};
  return fail({Code::kInvalidArgument, "LAYERS_SHARED"},
              "restore.layers: %zu of them would be copied into a memory that is not private",
              restore.layers.size());
}

}  // namespace

Result<> validate(const MachineConfig& config) {
  if (config.vcpu_count == 0 || config.vcpu_count > kvm::kMaxVcpus) {
    return fail({Code::kInvalidArgument, "VCPU_COUNT"}, "vcpu_count: %u is not from 1 to %u",
                config.vcpu_count, kvm::kMaxVcpus);
  }
  TRY(validate_memory(config.memory_bytes));
  TRY(need(config.kvm, "kvm_fd"));
  const bool is_mapped = config.restore && config.restore->is_mapped;
  if (!is_mapped) TRY(need(config.memory, "memory_fd"));
  TRY(config.restore ? validate_restore(*config.restore, config.memory_bytes)
                     : need(config.kernel, "kernel_fd"));
  TRY(need(config.exit_report, "exit_report_fd"));
  TRY(need(config.console.ring, "console.ring_fd"));
  TRY(need(config.console.output_event, "console.output_event_fd"));
  TRY(at_most(config.initrds.size(), kMaxInitrds, "initrd_fds"));
  for (const Fd& initrd : config.initrds) TRY(need(initrd, "initrd_fds"));
  TRY(validate_disks(config.disks));
  TRY(validate_nets(config.nets));
  const bool parks = config.restore && config.restore->parks;
  if (parks) TRY(validate_parked(config));
  if (config.vsock) {
    TRY(parks ? validate_host_ports(*config.vsock) : validate_vsock(*config.vsock));
  }
  if (config.balloon) TRY(validate_balloon(*config.balloon, config.memory_bytes));
  return {};
}

Result<> validate_target(uint64_t target_pages, uint64_t memory_bytes) {
  // What the device's registers can say is 16 TiB, more than RAM can be.
  const uint64_t pages = memory_bytes / kPageSize;
  if (target_pages <= pages) return {};
  return fail({Code::kInvalidArgument, "BALLOON_TARGET"},
              "balloon.target_pages: %llu are more than the %llu of RAM",
              static_cast<unsigned long long>(target_pages),
              static_cast<unsigned long long>(pages));
}

Result<> validate(const ClaimConfig& config) {
  TRY(validate_disks(config.disks));
  TRY(validate_nets(config.nets));
  if (config.vsock) TRY(validate_vsock(*config.vsock));
  return {};
}

Result<> validate(const MissingMemoryConfig& config) {
  TRY(validate_memory(config.size_bytes));
  TRY(need(config.file, "map_memory.memory_fd"));
  TRY(need(config.userfault_device, "map_memory.userfault_device_fd"));
  return need(config.guard, "map_memory.guard_fd");
}

uint32_t virtio_device_count(const MachineConfig& config) {
  return 1 + (config.has_rng ? 1 : 0) + (config.vsock ? 1 : 0) + (config.balloon ? 1 : 0) +
         static_cast<uint32_t>(config.nets.size() + config.disks.size());
}

}  // namespace mayfly
