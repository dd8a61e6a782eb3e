// SPDX-License-Identifier: Apache-2.0
//
// The VMClock device (ACPI "VMCLOCK", Linux's ptp_vmclock): a page at kVmClock that tells a guest,
// and what the guest maps it into, that its clock was disrupted, and that it was loaded from a
// saved state. Both are numbers that never come back; the generic event device of acpi.h notifies
// the driver when they have changed.
//
// The page tells no time: nobody here knows how exactly the host's clock goes, and Linux would take
// a counter without a period for a clock that stands still in 1970. So the counter is none.
//
// The page is guest RAM. A guest that writes to it deceives itself alone: nothing is read back but
// whether there is such a page.
#pragma once

#include "base/error.h"
#include "base/memory/guest_memory.h"

#include <cstddef>
#include <cstdint>

namespace mayfly::boot {

/// `struct vmclock_abi`, version 1, as Linux's uapi/linux/vmclock-abi.h lays it out; little-endian.
struct VmClockPage {
  uint32_t magic;
  /// Of the whole region.
  uint32_t size;
  uint16_t version;
  uint8_t counter_id;
  uint8_t time_type;
  /// Odd while the rest is being changed.
  uint32_t seq_count;
  uint64_t disruption_marker;
  uint64_t flags;
  uint8_t pad[2];
  uint8_t clock_status;
  uint8_t leap_second_smearing_hint;
  uint16_t tai_offset_sec;
  uint8_t leap_indicator;
  uint8_t counter_period_shift;
  uint64_t counter_value;
  uint64_t counter_period_frac_sec;
  uint64_t counter_period_esterror_rate_frac_sec;
  uint64_t counter_period_maxerror_rate_frac_sec;
  uint64_t time_sec;
  uint64_t time_frac_sec;
  uint64_t time_esterror_nanosec;
  uint64_t time_maxerror_nanosec;
  uint64_t vm_generation_counter;
};
static_assert(offsetof(VmClockPage, counter_id) == 10);
static_assert(offsetof(VmClockPage, seq_count) == 12);
static_assert(offsetof(VmClockPage, disruption_marker) == 16);
static_assert(offsetof(VmClockPage, flags) == 24);
static_assert(offsetof(VmClockPage, clock_status) == 34);
static_assert(offsetof(VmClockPage, tai_offset_sec) == 36);
static_assert(offsetof(VmClockPage, counter_value) == 40);
static_assert(offsetof(VmClockPage, time_sec) == 72);
static_assert(offsetof(VmClockPage, vm_generation_counter) == 104);
static_assert(sizeof(VmClockPage) == 112);

inline constexpr uint32_t kVmClockMagic = 0x4b4c'4356;  // "VCLK"
inline constexpr uint16_t kVmClockVersion = 1;
inline constexpr uint8_t kVmClockCounterInvalid = 0xff;
inline constexpr uint64_t kVmClockFlagGenerationCounter = 1 << 8;
/// Each change of the page is notified.
inline constexpr uint64_t kVmClockFlagNotification = 1 << 9;

/// What changes; random, so that no copy of a guest has the numbers of another.
struct VmClockMarkers {
  uint64_t disruption;
  uint64_t generation;
};

/// Writes a new guest's page.
Result<> load_vmclock(const GuestMemory& memory, const VmClockMarkers& markers);

/// For a guest that goes on from a saved state; no vCPU runs. False: it has no such page, being of
/// a time before there were any, or having written over it, and nothing is written.
Result<bool> disrupt_vmclock(const GuestMemory& memory, const VmClockMarkers& markers);

}  // namespace mayfly::boot
