// SPDX-License-Identifier: Apache-2.0
#include "snapshot/host.h"

#include "snapshot/testing/sample.h"

#include <doctest/doctest.h>

namespace mayfly::snapshot {
namespace {

template <typename Change>
std::string why_not(Change change) {
  HostRequirements needed = testing::sample_manifest("any").host;
  HostDescription host = testing::sample_host();
  change(needed, host);
  const Result<> checked = check_host(needed, host);
  if (checked) return "";
  CHECK_EQ(checked.error().code(), Code::kFailedPrecondition);
  return checked.error().reason() + ": " + checked.error().message();
}

bool has(const std::string& text, const char* part) { return text.find(part) != text.npos; }

TEST_CASE("the host a snapshot was made on will do, and a better one too") {
  CHECK_EQ(why_not([](auto&, auto&) {}), "");
  CHECK_EQ(why_not([](auto&, auto& host) {
             host.cpuid.entries[1].ecx |= 1u << 12;
             host.msrs.push_back(0x1d9);
             host.xsave_features |= 0xe0;
           }),
           "");
}

TEST_CASE("bits that mirror what the guest has switched on, and topology, do not count") {
  CHECK_EQ(why_not([](auto& needed, auto&) {
             needed.cpuid.entries[1].ecx |= 1u << 27;    // OSXSAVE
             needed.cpuid.entries[1].edx |= 1u << 28;    // HTT
             needed.cpuid.entries[1].ebx = 0x0102'0800;  // APIC id
           }),
           "");
}

TEST_CASE("what is missing is named") {
  CHECK(has(why_not([](auto&, auto& host) { host.cpu_vendor = "AuthenticAMD"; }),
            "CPU_VENDOR: the snapshot is of a GenuineIntel CPU, this host's is AuthenticAMD"));
  CHECK(has(why_not([](auto&, auto& host) { host.cpuid.entries[2].ebx = 0; }),
            "CPU_FEATURE: the guest uses avx2 (CPUID 0x7.0 EBX bit 5)"));
  CHECK(has(why_not([](auto&, auto& host) { host.cpuid.count = 1; }), "CPU_FEATURE"));
  CHECK(has(why_not([](auto& needed, auto&) { needed.cpuid.entries[2].edx = 1u << 1; }),
            "a feature (CPUID 0x7.0 EDX bit 1)"));
  CHECK(has(why_not([](auto&, auto& host) { host.xsave_features = 3; }), "XCR0 bit 2"));
  CHECK(has(why_not([](auto&, auto& host) { host.msrs.erase(host.msrs.begin() + 2); }),
            "MSR: the snapshot has MSR 0x6e0"));
  CHECK(has(why_not([](auto&, auto& host) { host.page_bytes = 65536; }), "PAGE_SIZE"));
  CHECK(has(why_not([](auto&, auto& host) { host.kvm_clock = false; }), "KVM_CLOCK"));
}

TEST_CASE("another TSC rate needs scaling, up to KVM's tolerance") {
  const auto with_rate = [](uint32_t khz, bool can_scale) {
    return why_not([=](auto&, auto& host) {
      host.tsc_khz = khz;
      host.can_scale_tsc = can_scale;
    });
  };
  CHECK_EQ(with_rate(2'000'500, false), "");
  CHECK_EQ(with_rate(1'999'500, false), "");
  CHECK(has(with_rate(2'000'501, false), "TSC_FREQUENCY"));
  CHECK(has(with_rate(3'000'000, false), "2000000 kHz, this host's at 3000000"));
  CHECK_EQ(with_rate(3'000'000, true), "");
}

}  // namespace
}  // namespace mayfly::snapshot
