// SPDX-License-Identifier: Apache-2.0
#include "daemon/limits.h"

namespace mayfly::daemon {

namespace {

using ull = unsigned long long;

Result<> within(const char* field, uint64_t value, uint64_t least, uint64_t most) {
  if (value >= least && value <= most) return {};
  return fail({Code::kInvalidArgument, "RESOURCE_LIMIT"}, "%s: %llu is not within %llu to %llu",
              field, static_cast<ull>(value), static_cast<ull>(least), static_cast<ull>(most));
}

}  // namespace

Result<> validate(const ResourceLimits& limits, uint32_t vcpus, uint64_t guest_mib,
                  uint64_t console_kib) {
  if (limits.cpu_milli)
    TRY(within("limits.cpu_milli", *limits.cpu_milli, kMinCpuMilli, kMaxCpuMilli));
  if (limits.cpu_weight) TRY(within("limits.cpu_weight", *limits.cpu_weight, 1, kMaxCpuWeight));
  if (limits.pids_max) TRY(within("limits.pids_max", *limits.pids_max, min_pids(vcpus), kMaxPids));
  if (!limits.memory_mib) return {};
  const uint64_t overhead = memory_overhead_mib(guest_mib, console_kib);
  if (*limits.memory_mib < guest_mib + overhead) {
    return fail({Code::kInvalidArgument, "RESOURCE_LIMIT"},
                "limits.memory_mib: %llu is below the guest's memory of %llu and %llu for its "
                "monitor, %llu in all",
                static_cast<ull>(*limits.memory_mib), static_cast<ull>(guest_mib),
                static_cast<ull>(overhead), static_cast<ull>(guest_mib + overhead));
  }
  // As many bytes as fit the kernel's counter.
  return within("limits.memory_mib", *limits.memory_mib, 1, kMaxPerSecond >> 20);
}

Result<> validate(const DiskLimits& limits, const char* field) {
  const auto check = [&](const char* name, const std::optional<uint64_t>& value, uint64_t least) {
    return value ? within(format("%s.limits.%s", field, name).c_str(), *value, least, kMaxPerSecond)
                 : Result<>();
  };
  TRY(check("read_bytes_per_s", limits.read_bytes_per_s, kMinBytesPerSecond));
  TRY(check("write_bytes_per_s", limits.write_bytes_per_s, kMinBytesPerSecond));
  TRY(check("read_ops_per_s", limits.read_ops_per_s, 1));
  return check("write_ops_per_s", limits.write_ops_per_s, 1);
}

}  // namespace mayfly::daemon
