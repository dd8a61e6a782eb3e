// SPDX-License-Identifier: Apache-2.0
#include "vmm/kvm/cpuid_x86.h"

#include <doctest/doctest.h>

namespace mayfly::kvm {
namespace {

CpuidTable host() {
  CpuidTable table;
  for (const uint32_t function : {0u, 1u, 4u, 0xau, 0x8000'0001u, 0x8000'0008u, 0x8000'001eu}) {
    table.entries[table.count].function = function;
    table.entries[table.count].ebx = 0xffff'ffff;
    table.entries[table.count++].ecx = 0;
  }
  for (uint32_t sub = 0; sub < 6; ++sub) {
    table.entries[table.count].function = 0xb;
    table.entries[table.count].index = sub;
    table.entries[table.count++].edx = 77;
  }
  return table;
}

const kvm_cpuid_entry2* find(const CpuidTable& table, uint32_t function, uint32_t index = 0) {
  for (const auto& entry : table.used()) {
    if (entry.function == function && entry.index == index) return &entry;
  }
  return nullptr;
}

TEST_CASE("each vCPU has its own APIC id in every leaf that shows one") {
  const CpuidTable table = cpuid_for(host(), 5, 32);
  CHECK_EQ(find(table, 1)->ebx >> 24, 5);
  CHECK_EQ(find(table, 0xb, 0)->edx, 5);
  CHECK_EQ(find(table, 0xb, 1)->edx, 5);
  CHECK_EQ(find(table, 0x8000'001e)->eax, 5);
}

TEST_CASE("the topology is one thread a core and all cores in one socket") {
  const CpuidTable table = cpuid_for(host(), 0, 6);
  CHECK_EQ(find(table, 0xb, 0)->ebx, 1);
  CHECK_EQ(find(table, 0xb, 1)->eax, 3);
  CHECK_EQ(find(table, 0xb, 1)->ebx, 6);
  CHECK_EQ(find(table, 0xb, 2)->ebx, 0);
  CHECK_EQ(find(table, 0xb, 3), nullptr);
  CHECK_EQ((find(table, 1)->ebx >> 16) & 0xff, 8);
  CHECK_EQ(find(table, 0x8000'0008)->ecx & 0xff, 5);
  CHECK_EQ((find(table, 0x8000'0008)->ecx >> 12) & 0xf, 3);
}

TEST_CASE("a single vCPU is no multi-processor") {
  const CpuidTable table = cpuid_for(host(), 0, 1);
  CHECK_EQ(find(table, 1)->edx & (1u << 28), 0);
  CHECK_EQ(find(table, 0xb, 1)->eax, 0);
  CHECK_EQ(find(table, 0xb, 1)->ebx, 1);
}

TEST_CASE("the guest sees a hypervisor and no performance counters") {
  const CpuidTable table = cpuid_for(host(), 0, 1);
  CHECK_NE(find(table, 1)->ecx & (1u << 31), 0);
  CHECK_EQ(find(table, 0xa)->ebx, 0);
}

TEST_CASE("a full table stays inside its bound") {
  CpuidTable full;
  full.count = CpuidTable::kMaxEntries;
  CHECK_LE(cpuid_for(full, 0, 2).count, CpuidTable::kMaxEntries);
}

}  // namespace
}  // namespace mayfly::kvm
