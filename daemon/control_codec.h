// SPDX-License-Identifier: Apache-2.0
//
// proto/control.proto as plain values: what the daemon tells a monitor, and what it takes from it.
// A monitor is not trusted: replies and reports are bounded, and their text is made printable.
#pragma once

#include "base/error.h"
#include "base/fd.h"
#include "daemon/net_spec.h"
#include "virtio/balloon/state.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace mayfly::daemon {

inline constexpr size_t kMaxControlBytes = 64 * 1024;
inline constexpr size_t kMaxExitReportBytes = 64 * 1024;

/// One packet and the descriptors that travel with it; they are borrowed until it has been sent.
struct ControlPacket {
  std::string bytes;
  std::vector<FdRef> fds;
};

struct ConfigureDisk {
  FdRef fd;
  bool read_only = false;
  std::string serial;
};

struct ConfigureNet {
  // One of the two.
  FdRef tap;
  FdRef stream = {};
  MacAddress mac = {};
  uint32_t mtu = 0;
};

struct HostPort {
  uint32_t port = 0;
  FdRef fd;
};

/// Some pages of a memory, and which; control.proto's Layer.
struct LayerParams {
  FdRef memory;
  FdRef pages;
};

inline constexpr size_t kGenerationIdBytes = 16;

/// What a balloon counts in.
inline constexpr uint64_t kBalloonPageBytes = 4096;
inline constexpr uint64_t kPagesOfMib = (uint64_t{1} << 20) / kBalloonPageBytes;

/// What Restore.copied_chunks counts in, and how many runs it may have.
inline constexpr uint64_t kCopiedChunkBytes = uint64_t{2} << 20;
inline constexpr size_t kMaxCopiedRuns = 1024;

/// Chunks of a memory that follow one another.
struct ChunkRun {
  uint32_t first = 0;
  uint32_t count = 0;

  friend bool operator==(const ChunkRun&, const ChunkRun&) = default;
};

/// A machine that goes on from what was saved: its memory is mapped private.
struct RestoreParams {
  FdRef state;
  std::vector<LayerParams> layers;
  // kGenerationIdBytes; empty with parks.
  std::string generation_id;
  // Waits for a claim (ClaimParams); then it has neither disks nor start.
  bool parks = false;
  // Sorted and apart; none with record_touched.
  std::vector<ChunkRun> copied_chunks = {};
  bool record_touched = false;
  // With record_touched; invalid: there is none.
  FdRef userfault_device = {};
  // The memory is what encode_map_memory() has had mapped, and shared.
  bool is_mapped = false;
};

struct BalloonParams {
  // 4 KiB each.
  uint64_t target_pages = 0;
  virtio::balloon::Options options;
};

struct ConfigureParams {
  uint32_t vcpus = 0;
  uint64_t memory_bytes = 0;
  std::string cmdline;
  FdRef kvm;
  FdRef memory;
  FdRef kernel;
  std::vector<FdRef> initrds;
  std::vector<ConfigureDisk> disks;
  std::vector<ConfigureNet> nets = {};
  FdRef console_ring;
  FdRef console_event;
  FdRef console_input;
  // 0: no vsock device. Any other with parks: the claim's counts.
  uint64_t guest_cid = 0;
  std::vector<HostPort> host_ports;
  FdRef exit_report;
  bool start = false;
  bool end_on_disconnect = false;
  bool debug_serial = false;
  // Of a saved machine, its options alone count.
  std::optional<BalloonParams> balloon = {};
  // Then neither kernel, initrds nor cmdline count.
  std::optional<RestoreParams> restore;
};

/// What makes a parked machine a VM of its own.
struct ClaimParams {
  // kGenerationIdBytes.
  std::string generation_id;
  // 0: the machine has no vsock device.
  uint64_t guest_cid = 0;
  // More than those of the configuration.
  std::vector<HostPort> host_ports;
  // All of the machine's.
  std::vector<ConfigureDisk> disks;
  std::vector<ConfigureNet> nets = {};
  bool start = false;
};

struct SaveParams {
  // Empty.
  FdRef state;
  // The memory is left alone.
  bool state_only = false;
  // Absent, and not state_only: the memory is left behind. Both files empty.
  std::optional<LayerParams> changed_pages;
};

/// Pages are counted from the memory's start.
struct PageQuery {
  uint64_t first_page = 0;
  uint32_t page_count = 0;
  bool find_zero = false;
};

enum class Command { kStart, kPause, kResume, kStop };

struct MapMemoryParams {
  // A memfd.
  FdRef memory;
  uint64_t memory_bytes = 0;
  // /dev/userfaultfd.
  FdRef userfault_device;
  // SOCK_SEQPACKET.
  FdRef guard;
};

ControlPacket encode_configure(uint64_t id, const ConfigureParams& params);
ControlPacket encode_command(uint64_t id, Command command);
ControlPacket encode_claim(uint64_t id, const ClaimParams& params);
ControlPacket encode_save(uint64_t id, const SaveParams& params);
/// Both files have a bit for each page.
ControlPacket encode_get_touched_pages(uint64_t id, FdRef touched, FdRef written);
ControlPacket encode_get_pages(uint64_t id, const PageQuery& query);
ControlPacket encode_map_memory(uint64_t id, const MapMemoryParams& params);
/// 4 KiB each.
ControlPacket encode_set_balloon(uint64_t id, uint64_t target_pages);
ControlPacket encode_get_balloon(uint64_t id);
ControlPacket encode_vsock_connect(uint64_t id, uint32_t port, FdRef fd);

/// CLOCK_MONOTONIC in ns as each step ended; 0: not reached.
struct MonitorPhases {
  uint64_t main_ns = 0;
  uint64_t received_ns = 0;
  uint64_t memory_ns = 0;
  uint64_t vm_ns = 0;
  uint64_t kernel_ns = 0;
  uint64_t devices_ns = 0;
  uint64_t vcpus_ns = 0;
  uint64_t running_ns = 0;
  // Of a machine that was parked.
  uint64_t claim_ns = 0;
  uint64_t claim_devices_ns = 0;
  uint64_t claim_vcpus_ns = 0;
};

struct MonitorStats {
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

struct MonitorSaved {
  uint32_t tsc_khz = 0;
  uint64_t page_count = 0;
};

struct MonitorTouchedPages {
  bool is_exact = false;
};

/// As the monitor said it: bits, of any number.
struct MonitorPages {
  std::string resident;
  std::string own;
  std::string swapped;
  std::string zero;
};
/// A piece of guest RAM, and where the monitor says that it has mapped it.
struct MonitorRegion {
  uint64_t guest_address = 0;
  uint64_t size_bytes = 0;
  uint64_t file_offset = 0;
  uint64_t address = 0;
};
inline constexpr size_t kMaxRegions = 16;

/// Pages of 4 KiB. What the guest says of itself, by its monitor.
struct MonitorBalloon {
  uint64_t target_pages = 0;
  uint64_t actual_pages = 0;
  uint64_t inflated_pages = 0;
  uint64_t reported_pages = 0;
  struct Stats {
    uint64_t age_ns = 0;
    // By tag.
    std::array<std::optional<uint64_t>, 10> values = {};
  };
  std::optional<Stats> stats;
};

struct ControlReply {
  uint64_t id = 0;
  std::optional<Error> error;
  std::optional<MonitorPhases> phases;
  std::optional<MonitorSaved> saved;
  std::optional<MonitorTouchedPages> touched_pages = {};
  std::optional<MonitorPages> pages = {};
  std::optional<MonitorBalloon> balloon = {};
  std::vector<MonitorRegion> regions = {};
};

Result<ControlReply> parse_reply(std::span<const std::byte> packet);

/// The numbers are mayfly.v1.ExitReason's. control.proto's are the same up to kMonitorError; its
/// next, a denied system call, is 9 here, since 8 is the daemon's own, as 12 is.
enum class ExitReason : uint8_t {
  kUnspecified = 0,
  kGuestPoweroff = 1,
  kGuestReboot = 2,
  kGuestPanic = 3,
  kTripleFault = 4,
  kHostStop = 5,
  kKvmError = 6,
  kMonitorError = 7,
  kMonitorKilled = 8,
  kSyscallDenied = 9,
  kMemoryLost = 12,
};

/// "guest-poweroff" and so on, for people.
const char* exit_reason_text(ExitReason reason);

inline constexpr size_t kMaxThreadNameBytes = 32;

/// What a monitor's filter stopped it for.
struct DeniedSyscall {
  // The kind of thread, printable, at most kMaxThreadNameBytes.
  std::string thread;
  uint32_t number = 0;
};

struct ExitReport {
  ExitReason reason = ExitReason::kUnspecified;
  std::string detail;
  std::optional<DeniedSyscall> denied_syscall;
  MonitorStats stats;
};

/// The bytes of an exit report file. Empty or malformed is an error: the monitor ended without one.
Result<ExitReport> parse_exit_report(std::span<const std::byte> bytes);

}  // namespace mayfly::daemon
