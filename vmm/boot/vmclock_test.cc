// SPDX-License-Identifier: Apache-2.0
#include "vmm/boot/vmclock.h"

#include "vmm/boot/layout.h"

#include <doctest/doctest.h>

#include <cstring>
#include <vector>

namespace mayfly::boot {
namespace {

constexpr uint64_t kRam = 2 << 20;

GuestMemory ram() { return *GuestMemory::create((*Fd::memfd("test", kRam)).ref(), kRam); }

VmClockPage page_of(const GuestMemory& memory) {
  return memory.view({kVmClock, kVmClockSize})->load<VmClockPage>(0);
}

std::vector<std::byte> all_of(const GuestMemory& memory) {
  std::vector<std::byte> bytes(kRam);
  memory.view({Gpa{0}, kRam})->read(0, bytes);
  return bytes;
}

TEST_CASE("a new guest's page is what Linux's driver wants, and tells no time") {
  const GuestMemory memory = ram();
  REQUIRE(load_vmclock(memory, {.disruption = 7, .generation = 9}));
  const auto bytes = all_of(memory);
  CHECK_EQ(std::memcmp(bytes.data() + kVmClock.value, "VCLK\x00\x10\x00\x00\x01\x00\xff", 11), 0);
  const VmClockPage page = page_of(memory);
  CHECK_EQ(page.seq_count % 2, 0);
  CHECK_EQ(page.disruption_marker, 7);
  CHECK_EQ(page.vm_generation_counter, 9);
  CHECK_EQ(page.flags, 0x300);
  CHECK_EQ(page.clock_status, 0);
}

TEST_CASE("a restored guest finds other numbers behind an even count that went on") {
  const GuestMemory memory = ram();
  REQUIRE(load_vmclock(memory, {.disruption = 7, .generation = 9}));
  CHECK(*disrupt_vmclock(memory, {.disruption = 8, .generation = 10}));
  const VmClockPage once = page_of(memory);
  CHECK_EQ(once.seq_count, 2);
  CHECK_EQ(once.disruption_marker, 8);
  CHECK_EQ(once.vm_generation_counter, 10);
  // The same numbers drawn again are others all the same.
  CHECK(*disrupt_vmclock(memory, {.disruption = 8, .generation = 10}));
  const VmClockPage twice = page_of(memory);
  CHECK_EQ(twice.seq_count, 4);
  CHECK_EQ(twice.disruption_marker, 9);
  CHECK_EQ(twice.vm_generation_counter, 11);
}

TEST_CASE("a count that was left odd, or is at its end, becomes even") {
  const GuestMemory memory = ram();
  for (const uint32_t before : {5u, 0xffff'ffffu, 0xffff'fffeu}) {
    REQUIRE(load_vmclock(memory, {.disruption = 7, .generation = 9}));
    memory.view({kVmClock, kVmClockSize})->store(offsetof(VmClockPage, seq_count), before);
    CHECK(*disrupt_vmclock(memory, {.disruption = 8, .generation = 10}));
    const VmClockPage page = page_of(memory);
    CHECK_EQ(page.seq_count % 2, 0);
    CHECK_NE(page.seq_count, before);
  }
}

TEST_CASE("where there is no such page, nothing is written") {
  const GuestMemory memory = ram();
  const auto zero = all_of(memory);
  CHECK_FALSE(*disrupt_vmclock(memory, {.disruption = 8, .generation = 10}));
  CHECK_UNARY(all_of(memory) == zero);
  for (const uint64_t at : {offsetof(VmClockPage, magic), offsetof(VmClockPage, size),
                            offsetof(VmClockPage, version)}) {
    REQUIRE(load_vmclock(memory, {.disruption = 7, .generation = 9}));
    memory.view({kVmClock, kVmClockSize})->store(at, uint16_t{0xbad});
    const auto before = all_of(memory);
    CHECK_FALSE(*disrupt_vmclock(memory, {.disruption = 8, .generation = 10}));
    CHECK_UNARY(all_of(memory) == before);
  }
}

TEST_CASE("RAM that ends before the page is an error") {
  const auto memory = GuestMemory::create((*Fd::memfd("test", 1 << 16)).ref(), 1 << 16);
  REQUIRE(memory);
  CHECK_FALSE(load_vmclock(*memory, {}));
  CHECK_FALSE(disrupt_vmclock(*memory, {}));
}

}  // namespace
}  // namespace mayfly::boot
