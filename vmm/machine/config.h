// SPDX-License-Identifier: Apache-2.0
//
// What a machine is built from, as checked values and owned descriptors. vmm/control makes it from
// the daemon's message; validate() has looked at every number before a Machine sees it.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "base/memory/guest_memory.h"
#include "virtio/balloon/balloon.h"
#include "virtio/net/wire.h"
#include "vmm/boot/acpi.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace mayfly {

inline constexpr uint64_t kMinMemoryBytes = uint64_t{2} << 20;
inline constexpr uint64_t kMaxMemoryBytes = uint64_t{1} << 40;
inline constexpr size_t kMaxDisks = 8;
inline constexpr size_t kMaxNets = 4;
inline constexpr size_t kMaxInitrds = 4;
inline constexpr size_t kMaxVsockHostPorts = 16;
inline constexpr size_t kMaxLayers = 4;
/// Each is a mapping of its own, of the 65530 that Linux lets a process have.
inline constexpr size_t kMaxCopiedRuns = 1024;
inline constexpr uint32_t kMaxStatsIntervalS = 86'400;
inline constexpr uint64_t kMinGuestCid = 3;
inline constexpr uint64_t kMaxGuestCid = 0xffff'fffe;

enum class StartMode : uint8_t { kStopped, kRunning };
enum class DiskAccess : uint8_t { kReadWrite, kReadOnly };

struct DiskConfig {
  Fd file;
  DiskAccess access = DiskAccess::kReadWrite;
  std::string serial;
};

struct NetConfig {
  // One of the two.
  Fd tap;
  Fd stream;
  virtio::net::MacAddress mac = {};
  uint16_t mtu = 0;
};

struct ConsoleConfig {
  Fd ring;
  Fd output_event;
  /// Absent: no input.
  Fd input;
};

struct VsockHostPort {
  uint32_t port = 0;
  Fd stream;
};

struct VsockConfig {
  uint64_t guest_cid = 0;
  std::vector<VsockHostPort> host_ports;
};

struct BalloonConfig {
  /// Not looked at with `restore`.
  uint64_t target_pages = 0;
  virtio::balloon::Options options;
};

/// Some pages of a memory, each at its own offset in `memory`; `pages` has a bit for each 4 KiB of
/// RAM, from the lowest of byte 0 on, and is exactly as long as that takes.
struct MemoryLayer {
  Fd memory;
  Fd pages;
};

struct RecordConfig {
  /// /dev/userfaultfd. Absent: some neighbours of touched pages are recorded too.
  Fd userfault_device;
};

/// What a machine goes on from, instead of booting a kernel.
struct RestoreConfig {
  /// The part `state` of a snapshot.
  Fd state;
  MemorySharing sharing = MemorySharing::kShared;
  /// Of private RAM: copied before anything runs, into huge pages where the host gives them. Sorted
  /// and apart.
  std::vector<ChunkRun> copied_chunks;
  /// What is touched of private RAM is recorded.
  std::optional<RecordConfig> record;
  /// Copied over RAM, in this order; private RAM only.
  std::vector<MemoryLayer> layers;
  /// Absent: it stays as it was.
  std::optional<boot::GenerationId> generation_id;
  /// Without what makes it one VM and not another, which a ClaimConfig brings.
  bool parks = false;
  /// RAM was mapped before: MachineConfig::ram.
  bool is_mapped = false;
};

/// What makes a parked machine a VM of its own.
struct ClaimConfig {
  /// Absent: it stays as it was.
  std::optional<boot::GenerationId> generation_id;
  /// Where the machine has a vsock device, and only there; host ports add to those it has.
  std::optional<VsockConfig> vsock;
  /// All of the machine's.
  std::vector<DiskConfig> disks;
  std::vector<NetConfig> nets;
  StartMode start = StartMode::kStopped;
};

/// RAM that begins with every page missing, and that somebody else fills (lazy_memory_sys.h).
struct MissingMemoryConfig {
  uint64_t size_bytes = 0;
  Fd file;
  /// /dev/userfaultfd.
  Fd userfault_device;
  Fd guard;
};

struct MachineConfig {
  uint32_t vcpu_count = 1;
  uint64_t memory_bytes = 0;
  std::string command_line;
  Fd kvm;
  Fd memory;
  /// Neither kernel nor initrds with `restore`.
  Fd kernel;
  std::vector<Fd> initrds;
  std::vector<DiskConfig> disks;
  std::vector<NetConfig> nets;
  ConsoleConfig console;
  std::optional<VsockConfig> vsock;
  bool has_rng = true;
  std::optional<BalloonConfig> balloon;
  bool has_debug_serial = false;
  StartMode start = StartMode::kStopped;
  bool end_on_disconnect = false;
  /// Where the exit report goes.
  Fd exit_report;
  std::optional<RestoreConfig> restore;
  /// What `memory` is mapped as already; with restore.is_mapped only.
  std::unique_ptr<GuestMemory> ram;
};

/// Every number inside its limit, every needed descriptor there; the error names the field.
Result<> validate(const MachineConfig& config);
Result<> validate(const ClaimConfig& config);
Result<> validate(const MissingMemoryConfig& config);

/// A balloon's target, of a machine with so much RAM.
Result<> validate_target(uint64_t target_pages, uint64_t memory_bytes);

/// How many virtio devices the machine has: console, entropy, vsock, balloon, nets, disks.
uint32_t virtio_device_count(const MachineConfig& config);

/// RAM stays behind as it is, in the file it was made from.
struct LeaveMemory {};

/// What is private of RAM is copied.
struct ChangedPages {
  MemoryLayer layer;
};

/// RAM stays as it is: the state is all that is saved.
struct LeftAlone {};

struct SaveConfig {
  /// An empty file for the part `state`.
  Fd state;
  std::variant<LeaveMemory, ChangedPages, LeftAlone> memory;
};

/// A bit for each 4 KiB of RAM in each.
struct TouchedFiles {
  Fd touched;
  Fd written;
};

struct TouchedPages {
  uint64_t touched_count = 0;
  uint64_t written_count = 0;
  /// Else some neighbours of touched pages are among them.
  bool is_exact = false;
};

/// What a save was.
struct Saved {
  /// Of vCPU 0; 0 where the host does not know it.
  uint32_t tsc_khz = 0;
  uint64_t page_count = 0;
  uint64_t state_ns = 0;
  uint64_t memory_ns = 0;
};

/// At most so many pages in one query: what the loop does in a few milliseconds.
inline constexpr uint32_t kMaxQueryPages = 65536;
inline constexpr uint32_t kMaxZeroQueryPages = 8192;

/// Which pages of RAM to look at, counted from its start.
struct PageQuery {
  uint64_t first_page = 0;
  uint32_t page_count = 0;
  /// Also at what is in them.
  bool find_zero = false;
};

/// A bit for each of those pages, from the lowest of byte 0 on.
struct PageReport {
  std::string resident;
  /// This process's alone, also swapped out.
  std::string own;
  std::string swapped;
  /// With find_zero: of the resident ones.
  std::string zero;
};

/// What a balloon is like just now.
struct BalloonReport {
  uint32_t target_pages = 0;
  uint32_t actual_pages = 0;
  virtio::balloon::Counters counters;
  virtio::balloon::Stats stats;
  /// Of the stats, where there are any.
  uint64_t stats_age_ns = 0;
};

/// When each step of building and starting ended; CLOCK_MONOTONIC in ns, 0: not reached.
struct Phases {
  uint64_t main_ns = 0;
  uint64_t received_ns = 0;
  uint64_t memory_ns = 0;
  uint64_t vm_ns = 0;
  uint64_t kernel_ns = 0;
  uint64_t devices_ns = 0;
  uint64_t vcpus_ns = 0;
  uint64_t running_ns = 0;  // the vCPUs are let go
  // Of a machine that was parked.
  uint64_t claim_ns = 0;
  uint64_t claim_devices_ns = 0;
  uint64_t claim_vcpus_ns = 0;
};

/// Counters since the machine was built.
struct MachineStats {
  uint64_t exits_io = 0;
  uint64_t exits_mmio = 0;
  uint64_t exits_halt = 0;
  uint64_t exits_other = 0;
  uint64_t interrupts = 0;
  uint64_t disk_reads = 0;
  uint64_t disk_read_bytes = 0;
  uint64_t disk_writes = 0;
  uint64_t disk_written_bytes = 0;
  uint64_t disk_flushes = 0;
  uint64_t disk_errors = 0;
  uint64_t vsock_rx_bytes = 0;
  uint64_t vsock_tx_bytes = 0;
  uint64_t console_bytes = 0;
  uint64_t net_rx_frames = 0;
  uint64_t net_rx_bytes = 0;
  uint64_t net_tx_frames = 0;
  uint64_t net_tx_bytes = 0;
  uint64_t net_dropped = 0;
};

}  // namespace mayfly
