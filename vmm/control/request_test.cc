// SPDX-License-Identifier: Apache-2.0
#include "vmm/control/request.h"

#include "vmm/control/testing/requests.h"

#include <doctest/doctest.h>

#include <unistd.h>

namespace mayfly::vmm {
namespace {

using testing::parse;
using testing::reason;

::mayfly::control::Request valid() {
  ::mayfly::control::Request request = testing::boot_request();
  auto& disk = *request.mutable_configure()->add_disks();
  disk.set_fd(7);
  disk.set_read_only(true);
  return request;
}

TEST_CASE("a whole configuration comes through with its descriptors") {
  const auto request = parse(valid());
  REQUIRE(request.has_value());
  const auto& machine = std::get<Configure>(request->call).machine;
  CHECK_EQ(machine.vcpu_count, 2);
  CHECK_EQ(machine.command_line, "quiet");
  CHECK_EQ(machine.disks.size(), 1);
  CHECK_EQ(machine.disks[0].access, DiskAccess::kReadOnly);
  CHECK(machine.kernel.valid());
  CHECK_FALSE(machine.vsock.has_value());
}

TEST_CASE("memory that others fill is mapped with all that it takes, and restored into") {
  ::mayfly::control::Request request;
  request.set_id(7);
  auto& map = *request.mutable_map_memory();
  map.set_memory_bytes(64 << 20);
  map.set_userfault_device_fd(1);
  map.set_guard_fd(2);
  const auto mapped = parse(request);
  REQUIRE(mapped.has_value());
  const MissingMemoryConfig& memory = std::get<MapMemory>(mapped->call).memory;
  CHECK_EQ(memory.size_bytes, 64 << 20);
  CHECK((memory.file.valid() && memory.userfault_device.valid() && memory.guard.valid()));
  map.set_memory_bytes(4095);
  CHECK_EQ(reason(request), "MEMORY_SIZE");
  map.set_memory_bytes(64 << 20);
  map.set_guard_fd(1);
  CHECK_EQ(reason(request), "DESCRIPTOR_TWICE");
  map.set_guard_fd(9);
  CHECK_EQ(reason(request), "DESCRIPTOR_INDEX");
}

TEST_CASE("tap devices come through, and what they cannot be is refused") {
  auto request = valid();
  auto& sent = *request.mutable_configure()->add_nets();
  request.mutable_configure()->clear_disks();
  sent.set_tap_fd(7);
  sent.set_mac("\2\1\1\1\1\7");
  const auto parsed = parse(request);
  CHECK_EQ(std::get<Configure>(parsed.value().call).machine.nets.at(0).mac[5], 7);
  // A stream instead, which no other descriptor may be either.
  sent.set_stream_fd(7);
  const auto streamed = parse(request);
  CHECK_UNARY(std::get<Configure>(streamed.value().call).machine.nets.at(0).stream.valid());
  CHECK_FALSE(std::get<Configure>(streamed.value().call).machine.nets.at(0).tap.valid());
  sent.set_stream_fd(0);
  CHECK_EQ(reason(request), "DESCRIPTOR_TWICE");
  sent.clear_stream_fd();
  sent.set_mtu(65536);
  CHECK_EQ(reason(request), "NET_MTU");
  sent.set_mac("\2\1\1\1\1");
  CHECK_EQ(reason(request), "NET_MAC");
}

TEST_CASE("a restore comes through, and a kernel is not asked for") {
  auto request = testing::restore_request();
  auto& restore = *request.mutable_configure()->mutable_restore();
  restore.set_generation_id("0123456789abcdef");
  auto& layer = *restore.add_layers();
  layer.set_memory_fd(7);
  layer.set_pages_fd(6);
  request.mutable_configure()->mutable_console()->set_input_fd(8);
  CHECK_EQ(reason(request), "DESCRIPTOR_INDEX");
  request.mutable_configure()->mutable_console()->set_input_fd(6);
  layer.set_pages_fd(6);
  CHECK_EQ(reason(request), "DESCRIPTOR_TWICE");
  restore.clear_layers();
  const auto parsed = parse(request);
  REQUIRE(parsed.has_value());
  const auto& machine = std::get<Configure>(parsed->call).machine;
  CHECK_FALSE(machine.kernel.valid());
  REQUIRE(machine.restore.has_value());
  CHECK(machine.restore->state.valid());
  CHECK_EQ(machine.restore->sharing, MemorySharing::kPrivate);
  REQUIRE(machine.restore->generation_id.has_value());
  CHECK_EQ(machine.restore->generation_id->back(), std::byte{'f'});
}

TEST_CASE("what a restore cannot be is refused by field") {
  auto request = testing::restore_request();
  auto& restore = *request.mutable_configure()->mutable_restore();
  for (const size_t size : {1, 15, 17}) {
    restore.set_generation_id(std::string(size, 'x'));
    CHECK_EQ(reason(request), "GENERATION_ID");
  }
  restore.clear_generation_id();
  auto& layer = *restore.add_layers();
  layer.set_memory_fd(7);
  layer.set_pages_fd(9);
  CHECK_EQ(parse(request).error().error.message(),
           "restore.layers.pages_fd: descriptor 9 is named, 8 came with the call");
}

TEST_CASE("a machine that parks is told nothing that only its claim can say") {
  auto request = testing::restore_request();
  auto& configure = *request.mutable_configure();
  configure.mutable_restore()->set_park(true);
  // Its CID comes with the claim.
  configure.mutable_vsock();
  const auto parsed = parse(request);
  REQUIRE(parsed.has_value());
  CHECK(std::get<Configure>(parsed->call).machine.restore->parks);
  const auto refusal = [&](auto set) {
    auto changed = request;
    set(*changed.mutable_configure());
    const auto refused = parse(changed);
    REQUIRE_FALSE(refused.has_value());
    CHECK_EQ(refused.error().error.reason(), "PARKED");
    return refused.error().error.message();
  };
  CHECK(refusal([](auto& set) { set.set_start(true); }).starts_with("start: "));
  CHECK(refusal([](auto& set) { set.add_disks()->set_fd(7); }).starts_with("disks: "));
  CHECK(refusal([](auto& set) {
          set.mutable_restore()->set_generation_id("0123456789abcdef");
        }).starts_with("restore.generation_id: "));
}

::mayfly::control::Request valid_claim() {
  ::mayfly::control::Request request;
  request.set_id(7);
  auto& claim = *request.mutable_claim();
  claim.set_generation_id("0123456789abcdef");
  claim.mutable_vsock()->set_guest_cid(77);
  auto& port = *claim.mutable_vsock()->add_host_ports();
  port.set_port(1024);
  port.set_fd(1);
  auto& disk = *claim.add_disks();
  disk.set_fd(0);
  disk.set_serial("serial");
  claim.set_start(true);
  return request;
}

TEST_CASE("every field of a claim is read as protobuf writes it") {
  const auto parsed = parse(valid_claim());
  REQUIRE(parsed.has_value());
  const ClaimConfig& claim = std::get<Claim>(parsed->call).what;
  REQUIRE(claim.generation_id.has_value());
  CHECK_EQ(claim.generation_id->back(), std::byte{'f'});
  REQUIRE(claim.vsock.has_value());
  CHECK_EQ(claim.vsock->guest_cid, 77);
  REQUIRE_EQ(claim.vsock->host_ports.size(), 1);
  CHECK_EQ(claim.vsock->host_ports[0].port, 1024);
  CHECK(claim.vsock->host_ports[0].stream.valid());
  REQUIRE_EQ(claim.disks.size(), 1);
  CHECK(claim.disks[0].file.valid());
  CHECK_EQ(claim.disks[0].access, DiskAccess::kReadWrite);
  CHECK_EQ(claim.disks[0].serial, "serial");
  CHECK_EQ(claim.start, StartMode::kRunning);
}

TEST_CASE("what a claim cannot be is refused by field") {
  const auto refusal = [](auto set) {
    auto request = valid_claim();
    set(*request.mutable_claim());
    return reason(request);
  };
  CHECK_EQ(refusal([](auto& claim) { claim.set_generation_id("short"); }), "GENERATION_ID");
  CHECK_EQ(refusal([](auto& claim) { claim.mutable_vsock()->set_guest_cid(2); }), "GUEST_CID");
  CHECK_EQ(refusal([](auto& claim) { claim.mutable_vsock()->set_guest_cid(0xffff'ffff); }),
           "GUEST_CID");
  CHECK_EQ(refusal([](auto& claim) { claim.mutable_disks(0)->set_fd(1); }), "DESCRIPTOR_TWICE");
  CHECK_EQ(refusal([](auto& claim) { claim.mutable_disks(0)->set_fd(8); }), "DESCRIPTOR_INDEX");
  auto request = valid_claim();
  request.mutable_claim()->clear_disks();
  std::vector<Fd> fds;
  for (int i = 0; i < 11; ++i) fds.push_back(*Fd::event());
  for (uint32_t i = 2; i < 11; ++i) request.mutable_claim()->add_disks()->set_fd(i);
  const std::string bytes = request.SerializeAsString();
  const auto many = parse_request(std::as_bytes(std::span(bytes)), std::move(fds));
  REQUIRE_FALSE(many.has_value());
  CHECK_EQ(many.error().error.reason(), "TOO_MANY");
}

TEST_CASE("a save is told what becomes of memory, by what was said last") {
  ::mayfly::control::Request request;
  request.set_id(7);
  auto& save = *request.mutable_save();
  save.set_state_fd(5);
  CHECK_EQ(reason(request), "SAVE_WHAT");
  save.set_state_only(true);
  const auto alone = parse(request);
  REQUIRE(alone.has_value());
  CHECK(std::holds_alternative<LeftAlone>(std::get<Save>(alone->call).what.memory));
  save.set_leave_memory(true);
  const auto leaves = parse(request);
  REQUIRE(leaves.has_value());
  const SaveConfig& left = std::get<Save>(leaves->call).what;
  CHECK(left.state.valid());
  CHECK(std::holds_alternative<LeaveMemory>(left.memory));
  auto& changed = *save.mutable_changed_pages();
  changed.mutable_layer()->set_memory_fd(1);
  changed.mutable_layer()->set_pages_fd(1);
  CHECK_EQ(reason(request), "DESCRIPTOR_TWICE");
  changed.mutable_layer()->set_pages_fd(2);
  const auto copies = parse(request);
  REQUIRE(copies.has_value());
  const SaveConfig& copied = std::get<Save>(copies->call).what;
  REQUIRE(std::holds_alternative<ChangedPages>(copied.memory));
  CHECK(std::get<ChangedPages>(copied.memory).layer.pages.valid());
  // The other way round on the wire, which protobuf's own writer never does.
  std::string bytes = request.SerializeAsString();
  ::mayfly::control::Request then;
  then.mutable_save()->set_leave_memory(true);
  const std::string last = then.save().SerializeAsString();
  const std::string first = save.SerializeAsString();
  bytes = std::string("\x4a") + static_cast<char>(first.size() + last.size()) + first + last;
  std::vector<Fd> fds;
  for (int i = 0; i < 8; ++i) fds.push_back(*Fd::event());
  const auto both = parse_request(std::as_bytes(std::span(bytes)), std::move(fds));
  REQUIRE(both.has_value());
  CHECK(std::holds_alternative<LeaveMemory>(std::get<Save>(both->call).what.memory));
}

TEST_CASE("numbers outside their limits are refused by field") {
  auto request = valid();
  request.mutable_configure()->set_vcpu_count(0);
  CHECK_EQ(reason(request), "VCPU_COUNT");
  request.mutable_configure()->set_vcpu_count(33);
  CHECK_EQ(parse(request).error().error.message(), "vcpu_count: 33 is not from 1 to 32");
  for (const uint64_t bytes :
       {uint64_t{0}, uint64_t{1} << 20, (uint64_t{64} << 20) + 1, ~uint64_t{0}}) {
    request = valid();
    request.mutable_configure()->set_memory_bytes(bytes);
    CHECK_EQ(reason(request), "MEMORY_SIZE");
  }
  request = valid();
  request.mutable_configure()->mutable_vsock()->set_guest_cid(2);
  CHECK_EQ(reason(request), "GUEST_CID");
}

TEST_CASE("a descriptor that did not come, or is named twice, is refused") {
  auto request = valid();
  request.mutable_configure()->set_kernel_fd(8);
  CHECK_EQ(reason(request), "DESCRIPTOR_INDEX");
  request.mutable_configure()->set_kernel_fd(1);
  CHECK_EQ(reason(request), "DESCRIPTOR_TWICE");
}

TEST_CASE("a request without a call, and bytes that are no request, are refused") {
  ::mayfly::control::Request request;
  request.set_id(7);
  CHECK_EQ(reason(request), "UNKNOWN_CALL");
  const std::byte garbage[] = {std::byte{0xff}, std::byte{0xff}};
  CHECK_EQ(parse_request(garbage, {}).error().error.reason(), "BAD_MESSAGE");
}

// What protobuf reads of what we wrote.
template <typename Message>
Message read_back(const std::string& bytes) {
  Message message;
  REQUIRE(message.ParseFromString(bytes));
  return message;
}

// A message with each of its numbers set to its field's, so that no two can be confused.
const Phases kPhases{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
const MachineStats kStats{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, uint64_t{1} << 63};

void check(const ::mayfly::control::Phases& phases) {
  CHECK_EQ(phases.main_ns(), 1);
  CHECK_EQ(phases.received_ns(), 2);
  CHECK_EQ(phases.memory_ns(), 3);
  CHECK_EQ(phases.vm_ns(), 4);
  CHECK_EQ(phases.kernel_ns(), 5);
  CHECK_EQ(phases.devices_ns(), 6);
  CHECK_EQ(phases.vcpus_ns(), 7);
  CHECK_EQ(phases.running_ns(), 8);
  CHECK_EQ(phases.claim_ns(), 9);
  CHECK_EQ(phases.claim_devices_ns(), 10);
  CHECK_EQ(phases.claim_vcpus_ns(), 11);
}

void check(const ::mayfly::control::Stats& stats) {
  CHECK_EQ(stats.exits_io(), 1);
  CHECK_EQ(stats.exits_mmio(), 2);
  CHECK_EQ(stats.exits_halt(), 3);
  CHECK_EQ(stats.exits_other(), 4);
  CHECK_EQ(stats.interrupts(), 5);
  CHECK_EQ(stats.disk_reads(), 6);
  CHECK_EQ(stats.disk_read_bytes(), 7);
  CHECK_EQ(stats.disk_writes(), 8);
  CHECK_EQ(stats.disk_written_bytes(), 9);
  CHECK_EQ(stats.disk_flushes(), 10);
  CHECK_EQ(stats.disk_errors(), 11);
  CHECK_EQ(stats.vsock_rx_bytes(), 12);
  CHECK_EQ(stats.vsock_tx_bytes(), 13);
  CHECK_EQ(stats.console_bytes(), uint64_t{1} << 63);
}

TEST_CASE("every field of a configuration is read as protobuf writes it") {
  auto request = valid();
  auto& configure = *request.mutable_configure();
  configure.add_initrd_fds(8);
  configure.add_initrd_fds(9);
  configure.mutable_disks(0)->set_serial("serial");
  configure.mutable_vsock()->set_guest_cid(3);
  auto& port = *configure.mutable_vsock()->add_host_ports();
  port.set_port(1024);
  port.set_fd(10);
  configure.set_no_rng(true);
  configure.set_start(true);
  configure.set_end_on_disconnect(true);
  configure.set_debug_serial(true);
  std::vector<Fd> fds;
  for (int i = 0; i < 11; ++i) fds.push_back(*Fd::event());
  std::vector<int> numbers;
  for (const Fd& fd : fds) numbers.push_back(fd.number());
  const std::string bytes = request.SerializeAsString();
  const auto parsed = parse_request(std::as_bytes(std::span(bytes)), std::move(fds));
  REQUIRE(parsed.has_value());
  CHECK_EQ(parsed->id, 7);
  const auto& machine = std::get<Configure>(parsed->call).machine;
  CHECK_EQ(machine.memory_bytes, 64 << 20);
  CHECK_EQ(machine.kvm.number(), numbers[0]);
  CHECK_EQ(machine.memory.number(), numbers[1]);
  CHECK_EQ(machine.kernel.number(), numbers[2]);
  CHECK_EQ(machine.exit_report.number(), numbers[3]);
  CHECK_EQ(machine.console.ring.number(), numbers[4]);
  CHECK_EQ(machine.console.output_event.number(), numbers[5]);
  CHECK_EQ(machine.console.input.number(), numbers[6]);
  REQUIRE_EQ(machine.disks.size(), 1);
  CHECK_EQ(machine.disks[0].file.number(), numbers[7]);
  CHECK_EQ(machine.disks[0].serial, "serial");
  REQUIRE_EQ(machine.initrds.size(), 2);
  CHECK_EQ(machine.initrds[0].number(), numbers[8]);
  CHECK_EQ(machine.initrds[1].number(), numbers[9]);
  REQUIRE(machine.vsock.has_value());
  CHECK_EQ(machine.vsock->guest_cid, 3);
  REQUIRE_EQ(machine.vsock->host_ports.size(), 1);
  CHECK_EQ(machine.vsock->host_ports[0].port, 1024);
  CHECK_EQ(machine.vsock->host_ports[0].stream.number(), numbers[10]);
  CHECK_FALSE(machine.has_rng);
  CHECK_EQ(machine.start, StartMode::kRunning);
  CHECK(machine.end_on_disconnect);
  CHECK(machine.has_debug_serial);
}

TEST_CASE("every call is told by its field") {
  using Wire = ::mayfly::control::Request;
  const auto index = [](void (*set)(Wire&)) {
    Wire request;
    request.set_id(7);
    set(request);
    const auto parsed = parse(request);
    REQUIRE(parsed.has_value());
    return parsed->call.index();
  };
  CHECK_EQ(index([](Wire& request) { request.mutable_start(); }), 1);
  CHECK_EQ(index([](Wire& request) { request.mutable_pause(); }), 2);
  CHECK_EQ(index([](Wire& request) { request.mutable_resume(); }), 3);
  CHECK_EQ(index([](Wire& request) { request.mutable_stop(); }), 4);
  CHECK_EQ(index([](Wire& request) { request.mutable_vsock_connect()->set_port(9); }), 5);
  CHECK_EQ(index([](Wire& request) { request.mutable_get_stats(); }), 6);
  CHECK_EQ(index([](Wire& request) { request.mutable_save()->set_leave_memory(true); }), 7);
  CHECK_EQ(index([](Wire& request) { request.mutable_get_memory(); }), 8);
  CHECK_EQ(index([](Wire& request) { request.mutable_claim(); }), 9);
  CHECK_EQ(index([](Wire& request) { request.mutable_get_pages(); }), 11);
}

TEST_CASE("which pages are asked for is read as protobuf writes it") {
  ::mayfly::control::Request request;
  auto& get = *request.mutable_get_pages();
  get.set_first_page(uint64_t{1} << 40);
  get.set_page_count(65536);
  get.set_find_zero(true);
  const auto parsed = parse(request);
  REQUIRE(parsed.has_value());
  const PageQuery& query = std::get<GetPages>(parsed->call).query;
  CHECK_EQ(query.first_page, uint64_t{1} << 40);
  CHECK_EQ(query.page_count, 65536);
  CHECK(query.find_zero);
}

TEST_CASE("the largest report fits a packet, and is what protobuf reads") {
  const std::string bits(kMaxQueryPages / 8, '\xff');
  const std::string packet = make_reply(~uint64_t{0}, Answer(PageReport{bits, bits, bits, bits}));
  CHECK_LE(packet.size(), kMaxPacketBytes);
  const auto pages =
      read_back<::mayfly::control::Reply>(make_reply(9, Answer(PageReport{"r", "o", "s", "z"})))
          .pages();
  CHECK_EQ(pages.resident(), "r");
  CHECK_EQ(pages.own(), "o");
  CHECK_EQ(pages.swapped(), "s");
  CHECK_EQ(pages.zero(), "z");
}

TEST_CASE("replies are what protobuf reads") {
  using Wire = ::mayfly::control::Reply;
  const auto phases = read_back<Wire>(make_reply(9, Answer(kPhases)));
  CHECK_EQ(phases.id(), 9);
  CHECK_FALSE(phases.has_status());
  check(phases.phases());
  check(read_back<Wire>(make_reply(9, Answer(kStats))).stats());
  const auto saved = read_back<Wire>(make_reply(9, Answer(Saved{1, 2, 3, 4}))).saved();
  CHECK_EQ(saved.tsc_khz(), 1);
  CHECK_EQ(saved.page_count(), 2);
  CHECK_EQ(saved.state_ns(), 3);
  CHECK_EQ(saved.memory_ns(), 4);
  for (const bool is_private : {false, true}) {
    const auto memory = read_back<Wire>(make_reply(9, Answer(Memory{FdRef(0), is_private})));
    CHECK_EQ(memory.result_case(), Wire::kMemory);
    CHECK_EQ(memory.memory().is_private(), is_private);
  }
  const auto done = read_back<Wire>(make_reply(~uint64_t{0}, Answer()));
  CHECK_EQ(done.id(), ~uint64_t{0});
  CHECK_EQ(done.result_case(), Wire::RESULT_NOT_SET);
  const auto failed =
      read_back<Wire>(make_reply(9, fail({Code::kDataLoss, "REASON"}, "disk %d", 3)));
  CHECK_EQ(failed.status().code(), 15);
  CHECK_EQ(failed.status().reason(), "REASON");
  CHECK_EQ(failed.status().message(), "disk 3");
}

TEST_CASE("an exit report is what protobuf reads") {
  const auto report = read_back<::mayfly::control::ExitReport>(
      make_exit_report({ExitReason::kTripleFault, "detail", kStats, kPhases, 99}));
  CHECK_EQ(report.reason(), ::mayfly::control::EXIT_REASON_TRIPLE_FAULT);
  CHECK_EQ(report.detail(), "detail");
  CHECK_EQ(report.ended_ns(), 99);
  check(report.stats());
  check(report.phases());
}

TEST_CASE("fields of the wrong kind, too large or cut short are refused") {
  const auto refusal = [](std::initializer_list<int> bytes) {
    std::vector<std::byte> packet;
    for (const int byte : bytes) packet.push_back(static_cast<std::byte>(byte));
    const auto request = parse_request(packet, {});
    return request ? "" : request.error().error.message();
  };
  CHECK_EQ(refusal({0x0a, 0x00}), "not a message: text where a number belongs");  // id as text
  CHECK_EQ(refusal({0x10, 0x00}), "not a message: a number where a message belongs");
  CHECK_EQ(refusal({0x12, 0x05, 0x08}), "not a message: it ends inside a field");
  CHECK_EQ(refusal({0x12, 0x06, 0x08, 0x80, 0x80, 0x80, 0x80, 0x10}),
           "not a message: a number over 32 bits");
  CHECK_EQ(refusal({0x12, 0x03, 0x3a, 0x01, 0x80}), "not a message: it ends inside a number");
}

TEST_CASE("a refused packet closes every descriptor that came with it") {
  auto pipe = *Fd::pipe();
  std::vector<Fd> fds;
  fds.push_back(std::move(pipe.second));
  (void)parse_request({}, std::move(fds));
  char end;
  CHECK_EQ(::read(pipe.first.number(), &end, 1), 0);
}

}  // namespace
}  // namespace mayfly::vmm
