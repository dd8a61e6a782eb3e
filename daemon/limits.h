// SPDX-License-Identifier: Apache-2.0
//
// What a VM may use of its host: the plain form of mayfly.v1's ResourceLimits and DiskLimits, and
// their bounds. daemon/cgroup sets them. Any thread.
#pragma once

#include "base/error.h"

#include <cstdint>
#include <optional>

namespace mayfly::daemon {

inline constexpr uint32_t kMinCpuMilli = 10;  // The kernel takes no quota below 1 ms in 100.
inline constexpr uint32_t kMaxCpuMilli = 1'024'000;
inline constexpr uint32_t kMaxCpuWeight = 10'000;
inline constexpr uint32_t kMaxPids = 4'194'304;  // The kernel's PID_MAX_LIMIT.
inline constexpr uint64_t kMinBytesPerSecond = 512;
inline constexpr uint64_t kMaxPerSecond = uint64_t{1} << 53;

/// Of one disk; absent: no limit.
struct DiskLimits {
  std::optional<uint64_t> read_bytes_per_s = {};
  std::optional<uint64_t> write_bytes_per_s = {};
  std::optional<uint64_t> read_ops_per_s = {};
  std::optional<uint64_t> write_ops_per_s = {};

  bool any() const {
    return read_bytes_per_s || write_bytes_per_s || read_ops_per_s || write_ops_per_s;
  }
};

/// Of one VM, its monitor and its guest's memory together; absent: the default.
struct ResourceLimits {
  std::optional<uint32_t> cpu_milli = {};
  std::optional<uint32_t> cpu_weight = {};
  std::optional<uint64_t> memory_mib = {};
  std::optional<uint32_t> pids_max = {};
};

/// What a VM needs beside its guest's memory, and has by default: the monitor and its ring, page
/// tables (two sets of them, 1/512 each), the console, the page cache its disks go through.
constexpr uint64_t memory_overhead_mib(uint64_t guest_mib, uint64_t console_kib) {
  return 64 + guest_mib / 128 + (console_kib + 1023) / 1024;
}

/// Threads a monitor needs at least: its loop, its vCPUs, KVM's own worker, and a few of io_uring's
/// for disks that block.
constexpr uint32_t min_pids(uint32_t vcpus) { return vcpus + 8; }
/// By default io_uring may have as many as are of any use for 8 disks.
constexpr uint32_t default_pids(uint32_t vcpus) { return vcpus + 64; }

/// `limits.*`: each within its bounds, and enough for a VM of this size.
Result<> validate(const ResourceLimits& limits, uint32_t vcpus, uint64_t guest_mib,
                  uint64_t console_kib);

/// `field` is the disk's.
Result<> validate(const DiskLimits& limits, const char* field);

}  // namespace mayfly::daemon
