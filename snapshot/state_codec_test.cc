// SPDX-License-Identifier: Apache-2.0
#include "snapshot/state_codec.h"

#include "proto/state.pb.h"
#include "snapshot/testing/sample.h"

#include <doctest/doctest.h>

#include <cstring>
#include <string>

namespace mayfly::snapshot {
namespace {

using testing::sample_state;

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string payload_of(const Sealed& sealed) { return sealed.bytes.substr(sizeof(Header)); }

Result<MachineState> decode_payload(const std::string& payload) {
  return decode_state(bytes_of(seal(PartKind::kState, bytes_of(payload)).bytes));
}

state::MachineState as_library(const MachineState& machine) {
  state::MachineState message;
  REQUIRE(message.ParseFromString(payload_of(encode_state(machine))));
  return message;
}

template <typename T>
std::string image(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

TEST_CASE("the protobuf library reads what the table writes") {
  const MachineState machine = sample_state();
  const state::MachineState message = as_library(machine);
  REQUIRE_EQ(message.vcpus_size(), 2);
  for (int i = 0; i < 2; ++i) {
    const kvm::VcpuState& state = machine.vcpus[static_cast<size_t>(i)].state;
    const state::Vcpu& vcpu = message.vcpus(i);
    CHECK_EQ(vcpu.regs(), image(state.regs));
    CHECK_EQ(vcpu.sregs(), image(state.sregs));
    CHECK_EQ(vcpu.debug_regs(), image(state.debug_regs));
    CHECK_EQ(vcpu.xcrs(), image(state.xcrs));
    CHECK_EQ(vcpu.lapic(), image(state.lapic));
    CHECK_EQ(vcpu.events(), image(state.events));
    CHECK_EQ(vcpu.xsave(), image(state.xsave));
    CHECK_EQ(vcpu.mp_state(), static_cast<uint32_t>(i));
    REQUIRE_EQ(vcpu.msrs_size(), 3);
    CHECK_EQ(vcpu.msrs(1).index(), 0xc000'0080);
    CHECK_EQ(vcpu.msrs(2).data(), ~uint64_t{0});
    REQUIRE_EQ(vcpu.cpuid_size(), 3);
    CHECK_EQ(vcpu.cpuid(1).ebx(), static_cast<uint32_t>(i) << 24);
    CHECK_EQ(vcpu.cpuid(2).flags(), 1);
  }
  CHECK_EQ(message.ioapic().id(), 0x0100'0000);
  REQUIRE_EQ(message.ioapic().redirection_size(), 24);
  CHECK_EQ(message.ioapic().redirection(23), (uint64_t{1} << 40) + 23);
  CHECK(message.ioapic().pending(5));
  CHECK_FALSE(message.ioapic().pending(6));
  REQUIRE_EQ(message.devices_size(), 4);
  CHECK_EQ(message.devices(0).console().columns(), 80);
  CHECK(message.devices(1).has_rng());
  CHECK_EQ(message.devices(2).vsock().next_host_port(), 1048);
  CHECK_EQ(message.devices(3).blk().capacity_sectors(), 8192);
  CHECK_EQ(message.devices(3).blk().serial().substr(0, 8), "serial-0");
  const state::MmioTransport& transport = message.devices(2).transport();
  CHECK_EQ(transport.driver_features(), uint64_t{1} << 32 | 1u << 29);
  CHECK_EQ(transport.config_generation(), 26);
  REQUIRE_EQ(transport.queues_size(), 3);
  CHECK_EQ(transport.queues(2).device_area(), 0x10'2000 + 2 * 0x4000);
  CHECK_EQ(transport.queues(1).next_avail(), 65'001);
  CHECK_FALSE(transport.queues(1).ready());
  CHECK_EQ(message.clock().realtime_ns(), 1'700'000'000'000'000'000);
}

TEST_CASE("the table reads what the protobuf library writes, and nothing is lost on the way") {
  const std::string ours = payload_of(encode_state(sample_state()));
  const std::string theirs = as_library(sample_state()).SerializeAsString();
  CHECK_EQ(theirs, ours);
  const auto read = decode_payload(theirs);
  REQUIRE(read.has_value());
  CHECK_EQ(payload_of(encode_state(*read)), ours);
  CHECK(read->devices == sample_state().devices);
  CHECK(read->ioapic == sample_state().ioapic);
  CHECK(read->clock == sample_state().clock);
  CHECK_EQ(image(read->vcpus[1].state), image(sample_state().vcpus[1].state));
}

TEST_CASE("a balloon comes back as it was, in a newer minor version") {
  MachineState machine = sample_state();
  Device balloon = machine.devices[1];
  balloon.device = virtio::balloon::State{
      .target_pages = 1000,
      .actual_pages = 900,
      .options = {.deflate_on_oom = true, .free_page_reporting = true, .stats_interval_s = 60}};
  machine.devices.push_back(balloon);
  CHECK_EQ(encode_state(sample_state()).bytes[10], 0);
  CHECK_EQ(encode_state(machine).bytes[10], 2);
  const state::MachineState message = as_library(machine);
  CHECK_EQ(message.devices(4).balloon().actual_pages(), 900);
  CHECK_EQ(message.devices(4).balloon().options().stats_interval_s(), 60);
  const auto read = decode_payload(message.SerializeAsString());
  REQUIRE(read.has_value());
  CHECK(read->devices == machine.devices);
}

TEST_CASE("devices of a newer minor version come back like the others") {
  MachineState machine = sample_state();
  Device net = machine.devices[1];
  net.device = virtio::net::State{.mac = {2, 3, 4, 5, 6, 7}, .mtu = 9000};
  machine.devices.push_back(net);
  CHECK_EQ(encode_state(sample_state()).bytes[10], 0);
  CHECK_EQ(encode_state(machine).bytes[10], 1);
  const state::MachineState message = as_library(machine);
  CHECK_EQ(message.devices(4).net().mac(), std::string("\2\3\4\5\6\7"));
  CHECK_EQ(message.devices(4).net().mtu(), 9000);
  const auto read = decode_payload(message.SerializeAsString());
  REQUIRE(read.has_value());
  CHECK(read->devices == machine.devices);
}

// `change` makes the message wrong; the error has to say `part`.
template <typename Change>
void refused(const char* part, Change change) {
  state::MachineState message = as_library(sample_state());
  change(message);
  const auto read = decode_payload(message.SerializeAsString());
  REQUIRE_FALSE(read.has_value());
  INFO(read.error().describe());
  CHECK_NE(read.error().message().find(part), std::string::npos);
  CHECK((read.error().code() == Code::kDataLoss || read.error().reason() == "DEVICE_UNKNOWN"));
}

TEST_CASE("what is outside its limit is refused by name") {
  refused("vcpus: regs: 143 bytes, where 144 belong",
          [](auto& m) { m.mutable_vcpus(0)->mutable_regs()->resize(143); });
  refused("vcpus: xsave: 4097", [](auto& m) { m.mutable_vcpus(1)->mutable_xsave()->resize(4097); });
  refused("vcpus: 33", [](auto& m) {
    while (m.vcpus_size() < 33) m.add_vcpus();
  });
  refused("vcpus: there is none", [](auto& m) { m.clear_vcpus(); });
  refused("msrs: 513", [](auto& m) {
    while (m.vcpus(0).msrs_size() < 513) m.mutable_vcpus(0)->add_msrs();
  });
  refused("cpuid: 257", [](auto& m) {
    while (m.vcpus(0).cpuid_size() < 257) m.mutable_vcpus(0)->add_cpuid();
  });
  refused("redirection: 25", [](auto& m) { m.mutable_ioapic()->add_redirection(1); });
  refused("pending: 23", [](auto& m) { m.mutable_ioapic()->mutable_pending()->RemoveLast(); });
  refused("queues: 17", [](auto& m) {
    auto& transport = *m.mutable_devices(0)->mutable_transport();
    while (transport.queues_size() < 17) transport.add_queues();
  });
  refused("size: 65536 is above the limit of 65535", [](auto& m) {
    m.mutable_devices(0)->mutable_transport()->mutable_queues(0)->set_size(65536);
  });
  refused("devices: number 1", [](auto& m) { m.mutable_devices(1)->clear_rng(); });
}

TEST_CASE("a field that a later minor version adds is skipped") {
  std::string payload = payload_of(encode_state(sample_state()));
  const std::string before = payload;
  payload += std::string("\xa2\x06\x03new", 6);  // field 100, 3 bytes
  const auto read = decode_payload(payload);
  REQUIRE(read.has_value());
  CHECK_EQ(payload_of(encode_state(*read)), before);
}

TEST_CASE("a newer minor version is read, another major one is refused with its number") {
  const std::string file = encode_state(sample_state()).bytes;
  Header header;
  std::memcpy(&header, file.data(), sizeof(header));
  const auto as_version = [&](uint16_t major, uint16_t minor) {
    header.major = major;
    header.minor = minor;
    Hasher hasher;
    hasher.add(std::as_bytes(std::span(&header, 1)).first(offsetof(Header, digest)));
    hasher.add(bytes_of(file).subspan(sizeof(Header)));
    header.digest = hasher.digest();
    std::string changed = file;
    std::memcpy(changed.data(), &header, sizeof(header));
    return decode_state(bytes_of(changed));
  };
  CHECK(as_version(1, 9).has_value());
  const auto newer = as_version(2, 0);
  REQUIRE_FALSE(newer.has_value());
  CHECK_EQ(newer.error().code(), Code::kFailedPrecondition);
  CHECK_EQ(newer.error().reason(), "FORMAT_VERSION");
  CHECK_NE(newer.error().message().find("2.0"), std::string::npos);
}

TEST_CASE("a payload cut short anywhere is read or refused, and never more than was there") {
  const std::string whole = payload_of(encode_state(sample_state()));
  size_t refusals = 0;
  for (size_t size = 0; size < whole.size(); ++size) {
    const auto read = decode_payload(whole.substr(0, size));
    if (!read) {
      ++refusals;
      continue;
    }
    CHECK_LE(payload_of(encode_state(*read)).size(), whole.size());
  }
  CHECK_GT(refusals, whole.size() * 9 / 10);
}

TEST_CASE("a state at all its limits fits into the part's limit") {
  MachineState state = sample_state();
  Vcpu vcpu = state.vcpus[0];
  vcpu.state.msrs.count = kvm::MsrTable::kMaxEntries;
  for (auto& msr : vcpu.state.msrs.entries)
    msr = {.index = ~0u, .reserved = 0, .data = ~uint64_t{}};
  vcpu.cpuid.count = kvm::CpuidTable::kMaxEntries;
  std::memset(vcpu.cpuid.entries.data(), 0xff, sizeof(vcpu.cpuid.entries));
  state.vcpus.assign(kMaxVcpus, vcpu);
  state.devices.assign(kMaxDevices, state.devices[3]);
  const Sealed sealed = encode_state(state);
  CHECK_LE(sealed.bytes.size(), kMaxStateBytes / 5);
  CHECK(decode_state(bytes_of(sealed.bytes)).has_value());
}

}  // namespace
}  // namespace mayfly::snapshot
