// SPDX-License-Identifier: Apache-2.0
//
// What interrupts and further processors need of the probe, which otherwise has neither: one gate
// for the local APIC's timer, and a start for the others. Intel SDM volume 3, chapters 6, 9 and 11.
#include "tests/probe/cpu_sys.h"
#include "tests/probe/probe.h"

namespace probe {
namespace {

constexpr uint64_t kLocalApic = 0xfee00000;
constexpr uint64_t kSpurious = 0x0f0, kCommandLow = 0x300, kCommandHigh = 0x310;
constexpr uint64_t kTimer = 0x320, kInitialCount = 0x380, kDivide = 0x3e0;
constexpr uint32_t kEnabled = 1 << 8 | 0xff;
constexpr uint32_t kDivideBy1 = 0xb;
constexpr uint32_t kInit = 0x4500, kStartUp = 0x4600;
constexpr uint8_t kTimerVector = 0x40;

// Where processors begin, in real mode: below 1 MiB, by its page's number.
constexpr uint64_t kStartPage = 0x10;
constexpr uint64_t kMaxOthers = 3;

struct Counter {
  alignas(64) volatile uint64_t value;
};
constinit Counter counters[kMaxOthers] = {};

void write_apic(uint64_t offset, uint32_t value) {
  write_register<uint32_t>(kLocalApic + offset, value);
}

}  // namespace

// Called by start.S on each further processor, in ring 3: `index` from 0.
extern "C" [[noreturn]] void probe_other_main(uint64_t index) {
  for (;;) counters[index].value = counters[index].value + 1;
}

// Arms the timer, says so, and waits for its one interrupt.
void test_timer() {
  start_report();
  const uint64_t nanoseconds = number_option("wait", 500'000'000);
  set_gate(kTimerVector, timer_entry);
  write_apic(kSpurious, kEnabled);
  write_apic(kDivide, kDivideBy1);
  write_apic(kTimer, kTimerVector);
  // KVM's timer counts nanoseconds.
  write_apic(kInitialCount, static_cast<uint32_t>(nanoseconds));
  {
    Line() << "armed";
  }
  uint64_t spins = 0;
  while (timer_interrupts == 0) {
    ++spins;
    relax();
  }
  require(timer_interrupts == 1, "more than one interrupt");
  Line() << "interrupted after " << spins << " spins";
}

// Says `ready`, watches the time-stamp counter go on, and says how far it leapt at most between
// two looks at it.
void test_tsc() {
  start_report();
  const uint64_t count = number_option("count", 2'000'000'000);
  {
    Line() << "ready";
  }
  const uint64_t begin = cycles();
  uint64_t last = begin;
  uint64_t longest = 0;
  while (last - begin < count) {
    const uint64_t now = cycles();
    require(now >= last, "the time-stamp counter went back");
    if (now - last > longest) longest = now - last;
    last = now;
  }
  Line() << "leapt by " << longest << " of " << last - begin;
}

// Starts `others` processors, which count; looks on as each of them gets on, again and again.
void test_smp() {
  start_report();
  const uint64_t others = number_option("others", 1);
  const uint64_t count = number_option("count", 10);
  require(others >= 1 && others <= kMaxOthers, "probe.others= is out of range");
  copy_other_start(kStartPage << 12);
  write_apic(kSpurious, kEnabled);
  for (uint32_t id = 1; id <= others; ++id) {
    write_apic(kCommandHigh, id << 24);
    write_apic(kCommandLow, kInit);
    write_apic(kCommandHigh, id << 24);
    write_apic(kCommandLow, kStartUp | static_cast<uint32_t>(kStartPage));
  }
  uint64_t seen[kMaxOthers] = {};
  for (uint64_t round = 0; round < count; ++round) {
    for (uint64_t i = 0; i < others; ++i) {
      while (counters[i].value <= seen[i] + 100'000) relax();
      seen[i] = counters[i].value;
    }
    Line() << "all " << others << " go on, round " << round;
  }
}

}  // namespace probe
