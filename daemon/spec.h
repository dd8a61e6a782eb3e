// SPDX-License-Identifier: Apache-2.0
//
// What a caller may ask for: the plain form of mayfly.v1.VmSpec, its limits, and the kernel command
// line that comes of it. Every refusal names the field, the value and the limit. Any thread.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/limits.h"
#include "daemon/memory_plan.h"
#include "daemon/net_spec.h"
#include "virtio/balloon/state.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace mayfly::daemon {

class MetadataDocument;

inline constexpr uint32_t kMaxVcpus = 32;
inline constexpr uint64_t kMinMemoryMib = 16;
inline constexpr size_t kMaxDisks = 8;
inline constexpr size_t kMaxInitrds = 3;  // The control protocol takes 4; one is the agent's.
inline constexpr size_t kMaxCmdlineBytes = 2047;
inline constexpr size_t kMaxIdBytes = 63;
inline constexpr size_t kMaxSerialBytes = 20;
inline constexpr uint32_t kMinConsoleKib = 4;
inline constexpr uint32_t kMaxConsoleKib = 16384;
inline constexpr uint64_t kSectorBytes = 512;
inline constexpr uint64_t kMinGuestCid = 3;
inline constexpr uint64_t kMaxGuestCid = 0xffff'fffe;

struct DiskSpec {
  std::string path;
  bool read_only = false;
  std::string serial;
  DiskLimits limits = {};
  // Of a saved VM: the file must have as many.
  std::optional<uint64_t> size_bytes = {};
  // Made for the VM from what was captured: it has no path, and goes with the VM.
  bool own = false;
};

inline constexpr uint32_t kMaxStatsIntervalS = 86'400;

struct BalloonSpec {
  // As it was asked for at last; of a saved VM not known here.
  uint64_t target_mib = 0;
  virtio::balloon::Options options;

  BalloonParams params() const {
    return {.target_pages = target_mib * kPagesOfMib, .options = options};
  }
};

struct VmSpec {
  uint32_t vcpus = 1;
  uint64_t memory_mib = 128;
  std::string kernel_path;
  std::vector<std::string> initrd_paths;
  std::optional<DiskSpec> rootfs;
  std::vector<DiskSpec> disks;
  std::vector<NetSpec> nets;
  std::string cmdline;
  bool replace_cmdline = false;
  bool agent = true;
  uint32_t console_kib = 256;
  bool allow_slow_kvm = false;
  bool debug_serial = false;
  ResourceLimits limits;
  std::optional<BalloonSpec> balloon;
  // With the agent. Each VM has its own vsock, so that all may have the same.
  uint64_t guest_cid = kMinGuestCid;
  // Of a VM that goes on from a snapshot: how it has its memory.
  MemoryPolicy memory_policy = MemoryPolicy::kBalanced;
  bool record_working_set = false;
  // Null: none. A VM that goes on from another has none of that one's.
  std::shared_ptr<const MetadataDocument> metadata = {};
};

/// The rootfs first: /dev/vda, /dev/vdb, ...
std::vector<const DiskSpec*> all_disks(const VmSpec& spec);
/// "rootfs" or "disks[0]", of the disk at this place in all_disks().
std::string disk_field(const VmSpec& spec, size_t place);

/// [a-z0-9][a-z0-9-_.]{0,62}; `field` is named in the refusal.
Result<> validate_id(const char* field, const std::string& id);

/// Everything that can be told without touching the files.
Result<> validate(const VmSpec& spec, uint64_t host_memory_mib);
/// The same but for what is booted: of a VM that goes on from a snapshot.
Result<> validate_machine(const VmSpec& spec, uint64_t host_memory_mib);

/// A balloon's target, of a VM with so much memory.
Result<> validate_target(uint64_t target_mib, uint64_t memory_mib);

/// The whole kernel command line: defaults, root, agent, then what the caller adds.
std::string compose_cmdline(const VmSpec& spec);

struct SpecFiles {
  Fd kernel;
  // In load order, the agent's last.
  std::vector<Fd> initrds;
  // /dev/vda, /dev/vdb, ...
  std::vector<Fd> disks;
  // The largest that the VM may write to, in bytes.
  uint64_t largest_writable_disk = 0;
};

/// Opens and checks every file of the spec. A disk is locked (flock: shared where read-only, else
/// exclusive) for as long as its descriptor, the monitor's copy included, is open.
Result<SpecFiles> open_files(const VmSpec& spec, const std::string& agent_initrd);
/// The disks alone; one that is the VM's own is left to fill in.
Result<SpecFiles> open_disks(const VmSpec& spec);

/// A file with the memory of a saved VM: regular, and of `size_bytes`.
Result<Fd> open_memory_file(const std::string& path, uint64_t size_bytes);

/// The host's memory in MiB, from sysconf.
uint64_t host_memory_mib();

}  // namespace mayfly::daemon
