// SPDX-License-Identifier: Apache-2.0
//
// What a machine is built from, as checked values and owned descriptors. vmm/control makes it from
// the daemon's message; validate() has looked at every number before a Machine sees it.
#pragma once

#include "base/error.h"
#include "base/fd.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace mayfly {

inline constexpr uint64_t kMinMemoryBytes = uint64_t{2} << 20;
inline constexpr uint64_t kMaxMemoryBytes = uint64_t{1} << 40;
inline constexpr size_t kMaxDisks = 8;
inline constexpr size_t kMaxInitrds = 4;
inline constexpr size_t kMaxVsockHostPorts = 16;
inline constexpr uint64_t kMinGuestCid = 3;
inline constexpr uint64_t kMaxGuestCid = 0xffff'fffe;

enum class StartMode : uint8_t { kStopped, kRunning };
enum class DiskAccess : uint8_t { kReadWrite, kReadOnly };

struct DiskConfig {
  Fd file;
  DiskAccess access = DiskAccess::kReadWrite;
  std::string serial;
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

struct MachineConfig {
  uint32_t vcpu_count = 1;
  uint64_t memory_bytes = 0;
  std::string command_line;
  Fd kvm;
  Fd memory;
  Fd kernel;
  std::vector<Fd> initrds;
  std::vector<DiskConfig> disks;
  ConsoleConfig console;
  std::optional<VsockConfig> vsock;
  bool has_rng = true;
  bool has_debug_serial = false;
  StartMode start = StartMode::kStopped;
  bool end_on_disconnect = false;
  /// Where the exit report goes.
  Fd exit_report;
};

/// Every number inside its limit, every needed descriptor there; the error names the field.
Result<> validate(const MachineConfig& config);

/// How many virtio devices the machine has: console, entropy, vsock, disks.
uint32_t virtio_device_count(const MachineConfig& config);

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
};

}  // namespace mayfly
