// SPDX-License-Identifier: Apache-2.0
#include "daemon/agent_codec.h"
#include "daemon/control_codec.h"
#include "daemon/memory_pages.h"
#include "daemon/text.h"
#include "proto/agent.pb.h"
#include "proto/control.pb.h"

#include <doctest/doctest.h>

#include <string>

using namespace mayfly;
using namespace mayfly::daemon;

namespace {

std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text));
}

template <typename Message>
std::string frame(const Message& message) {
  const std::string payload = message.SerializeAsString();
  std::string out;
  for (unsigned shift = 0; shift < 32; shift += 8)
    out.push_back(static_cast<char>(payload.size() >> shift));
  return out + payload;
}

}  // namespace

TEST_CASE("frames are cut the same however the stream arrives") {
  agent::AgentToHost hello;
  hello.mutable_hello()->set_kernel_release("6.1");
  const std::string stream = frame(hello) + frame(agent::AgentToHost()) + frame(hello);
  for (const size_t step : {1ul, 2ul, 3ul, 7ul, 1000ul}) {
    FrameReader reader;
    size_t frames = 0;
    for (size_t at = 0; at < stream.size(); at += step) {
      reader.feed(bytes_of(stream.substr(at, step)));
      for (;;) {
        auto payload = reader.next();
        REQUIRE(payload);
        if (!*payload) break;
        ++frames;
        CHECK(parse_agent_message(**payload));
      }
    }
    CHECK(frames == 3);
  }
}

TEST_CASE("a frame longer than the limit is refused before it is held") {
  FrameReader reader;
  reader.feed(bytes_of(std::string("\x01\x00\x01\x00", 4)));  // 65,537
  CHECK(reader.next().error().reason() == "AGENT_FRAME");
}

TEST_CASE("what the guest says is made printable") {
  agent::AgentToHost message;
  message.mutable_hello()->set_kernel_release("6.1\x1b[2J\x7f");
  const auto parsed = parse_agent_message(message.SerializeAsString());
  REQUIRE(parsed);
  CHECK(std::get<AgentHello>(*parsed).kernel_release == "6.1?[2J?");
  CHECK(printable("a\xff\xc3", 100) == "a??");
  CHECK(printable_tail("abcdef", 3) == "def");
}

TEST_CASE("what a restored guest is told arrives whole") {
  FrameReader reader;
  reader.feed(
      bytes_of(encode_restored(std::string("\0e\xff", 3) + std::string(29, 'e'), 1ull << 60)));
  const auto payload = reader.next();
  REQUIRE(payload);
  REQUIRE(*payload);
  agent::HostToAgent message;
  REQUIRE(message.ParseFromString(**payload));
  CHECK(message.restored().entropy() == std::string("\0e\xff", 3) + std::string(29, 'e'));
  CHECK(message.restored().realtime_ns() == 1ull << 60);
  CHECK_FALSE(*reader.next());
}

TEST_CASE("what a guest says of its new identity is read with its sign, and made printable") {
  agent::AgentToHost message;
  message.mutable_reseeded()->set_clock_step_us(INT64_MIN);
  message.mutable_reseeded()->set_failure("no\x1b" + std::string(5000, 'x'));
  const auto parsed = parse_agent_message(message.SerializeAsString());
  REQUIRE(parsed);
  const auto& reseeded = std::get<AgentReseeded>(*parsed);
  CHECK(reseeded.clock_step_us == INT64_MIN);
  CHECK(reseeded.failure.starts_with("no?xx"));
  CHECK(reseeded.failure.size() < 5000);
}

TEST_CASE("a command for another user is a message that agents of before do not know") {
  ExecStart start;
  start.argv = {"id"};
  start.user = ExecUser{.uid = 7, .gid = 8, .groups = {9, 0}};
  const auto frame = encode_exec_start(start);
  REQUIRE(frame);
  agent::ExecInput message;
  REQUIRE(message.ParseFromString(frame->substr(4)));
  REQUIRE(message.has_start_as());
  CHECK(message.start_as().start().argv(0) == "id");
  CHECK(message.start_as().uid() == 7);
  CHECK(message.start_as().gid() == 8);
  REQUIRE(message.start_as().groups_size() == 2);
  CHECK(message.start_as().groups(0) == 9);
  CHECK(message.start_as().groups(1) == 0);
}

TEST_CASE("a command line too long for one frame is refused") {
  ExecStart start;
  start.argv = {"echo", std::string(kMaxFrameBytes, 'x')};
  CHECK(encode_exec_start(start).error().reason() == "COMMAND_TOO_LONG");
}

TEST_CASE("an exit code above a byte does not leave the range of exit codes") {
  agent::ExecOutput message;
  message.mutable_exited()->set_exit_code(0x1ff);
  const auto output = parse_exec_output(message.SerializeAsString());
  REQUIRE(output);
  CHECK(std::get<ExecExited>(*output).exit_code == 0xff);
}

TEST_CASE("a reply's error crosses with its code, reason and message") {
  control::Reply reply;
  reply.set_id(7);
  reply.mutable_status()->set_code(3);
  reply.mutable_status()->set_reason("KERNEL_FORMAT");
  reply.mutable_status()->set_message("kernel: bad\x01");
  const auto parsed = parse_reply(bytes_of(reply.SerializeAsString()));
  REQUIRE(parsed);
  CHECK(parsed->id == 7);
  REQUIRE(parsed->error);
  CHECK(parsed->error->code() == Code::kInvalidArgument);
  CHECK(parsed->error->reason() == "KERNEL_FORMAT");
  CHECK(parsed->error->message() == "kernel: bad?");
}

TEST_CASE("a reply with a code that does not exist is an error all the same") {
  control::Reply reply;
  reply.mutable_status()->set_code(9999);
  CHECK(parse_reply(bytes_of(reply.SerializeAsString()))->error->code() == Code::kUnknown);
}

TEST_CASE("an exit report is only believed where it can be true") {
  control::ExitReport report;
  report.set_reason(control::EXIT_REASON_TRIPLE_FAULT);
  CHECK(parse_exit_report(bytes_of(report.SerializeAsString()))->reason ==
        ExitReason::kTripleFault);
  for (const int unknown : {9, 255, -1}) {  // MONITOR_KILLED is the daemon's to say.
    report.set_reason(static_cast<control::ExitReason>(unknown));
    CHECK(parse_exit_report(bytes_of(report.SerializeAsString()))->reason ==
          ExitReason::kUnspecified);
  }
  CHECK_FALSE(parse_exit_report({}));
  CHECK_FALSE(parse_exit_report(bytes_of("\xff\xff")));
  CHECK_FALSE(parse_exit_report(bytes_of(std::string(kMaxExitReportBytes + 1, '\0'))));
}

TEST_CASE("a denied system call is taken as far as it can be true") {
  control::ExitReport report;
  report.set_reason(control::EXIT_REASON_SYSCALL_DENIED);
  auto parsed = parse_exit_report(bytes_of(report.SerializeAsString()));
  REQUIRE(parsed);
  CHECK(parsed->reason == ExitReason::kSyscallDenied);
  CHECK_FALSE(parsed->denied_syscall);
  report.mutable_denied_syscall()->set_thread("a\n\x1b[2J" + std::string(1000, 'x'));
  report.mutable_denied_syscall()->set_number(UINT32_MAX);
  parsed = parse_exit_report(bytes_of(report.SerializeAsString()));
  REQUIRE(parsed->denied_syscall);
  CHECK(parsed->denied_syscall->number == UINT32_MAX);
  CHECK(parsed->denied_syscall->thread.size() == kMaxThreadNameBytes);
  CHECK(parsed->denied_syscall->thread.starts_with("a??[2Jxx"));
  // Of another kind of end it is not believed.
  report.set_reason(control::EXIT_REASON_GUEST_POWEROFF);
  CHECK_FALSE(parse_exit_report(bytes_of(report.SerializeAsString()))->denied_syscall);
}

TEST_CASE("a configure request names its descriptors by their places") {
  ConfigureParams params;
  params.kvm = FdRef(10);
  params.memory = FdRef(11);
  params.kernel = FdRef(12);
  params.initrds = {FdRef(13), FdRef(14)};
  params.disks = {{.fd = FdRef(15), .read_only = true, .serial = "s"}};
  params.console_ring = FdRef(16);
  params.console_event = FdRef(17);
  params.console_input = FdRef(18);
  params.guest_cid = 3;
  params.host_ports = {{.port = 1024, .fd = FdRef(19)}};
  params.exit_report = FdRef(20);
  const ControlPacket packet = encode_configure(5, params);
  control::Request request;
  REQUIRE(request.ParseFromString(packet.bytes));
  const control::Configure& configure = request.configure();
  const auto number = [&](uint32_t place) { return packet.fds.at(place).number(); };
  CHECK(request.id() == 5);
  CHECK(number(configure.kvm_fd()) == 10);
  CHECK(number(configure.memory_fd()) == 11);
  CHECK(number(configure.kernel_fd()) == 12);
  CHECK(number(configure.initrd_fds(1)) == 14);
  CHECK(number(configure.disks(0).fd()) == 15);
  CHECK(number(configure.console().ring_fd()) == 16);
  CHECK(number(configure.console().output_event_fd()) == 17);
  CHECK(number(configure.console().input_fd()) == 18);
  CHECK(number(configure.vsock().host_ports(0).fd()) == 19);
  CHECK(number(configure.exit_report_fd()) == 20);
}

TEST_CASE("pages are asked for by number, and what comes is checked against that") {
  control::Request request;
  const PageQuery query{.first_page = uint64_t{1} << 33, .page_count = 12, .find_zero = true};
  REQUIRE(request.ParseFromString(encode_get_pages(7, query).bytes));
  CHECK(request.id() == 7);
  CHECK(request.get_pages().first_page() == uint64_t{1} << 33);
  CHECK(request.get_pages().page_count() == 12);
  CHECK(request.get_pages().find_zero());
  control::Reply reply;
  reply.mutable_pages()->set_resident("\x0f\x0f");
  reply.mutable_pages()->set_own("\x1f\x01");
  reply.mutable_pages()->set_swapped(std::string("\x10\x00", 2));
  reply.mutable_pages()->set_zero("\x01\x01");
  const auto check = [&](uint32_t page_count, bool find_zero) -> std::string {
    const std::string bytes = reply.SerializeAsString();
    const auto parsed = parse_reply(std::as_bytes(std::span(bytes)));
    REQUIRE(parsed);
    REQUIRE(parsed->pages);
    const auto checked = check_pages(
        *parsed->pages, {.first_page = 0, .page_count = page_count, .find_zero = find_zero});
    return checked ? "" : checked.error().reason();
  };
  CHECK(check(12, true) == "");
  CHECK(check(12, false) == "MONITOR_REPLY");  // nobody asked for zeroes
  for (const uint32_t other : {7, 8, 11, 17, 65536}) {
    CAPTURE(other);
    CHECK(check(other, true) == "MONITOR_REPLY");
  }
  reply.mutable_pages()->set_zero("\x01\x10");
  CHECK(check(16, true) == "MONITOR_REPLY");
  reply.mutable_pages()->set_zero("\x01\x01");
  reply.mutable_pages()->set_swapped("\x10\x01");
  CHECK(check(16, true) == "MONITOR_REPLY");
}

TEST_CASE("a machine that parks, and its claim, name their descriptors by their places") {
  ConfigureParams params;
  params.restore =
      RestoreParams{.state = FdRef(10), .layers = {}, .generation_id = {}, .parks = true};
  control::Request request;
  REQUIRE(request.ParseFromString(encode_configure(5, params).bytes));
  CHECK(request.configure().restore().park());
  CHECK(request.configure().restore().generation_id().empty());
  ClaimParams claim_params{
      .generation_id = "0123456789abcdef",
      .guest_cid = 9,
      .host_ports = {{.port = 1024, .fd = FdRef(11)}},
      .disks = {{.fd = FdRef(12), .read_only = true, .serial = "s"},
                {.fd = FdRef(13), .read_only = false, .serial = ""}},
      .start = true,
  };
  const ControlPacket packet = encode_claim(6, claim_params);
  REQUIRE(request.ParseFromString(packet.bytes));
  CHECK(request.id() == 6);
  const control::Claim& claim = request.claim();
  CHECK(claim.generation_id() == "0123456789abcdef");
  CHECK(claim.vsock().guest_cid() == 9);
  CHECK(claim.vsock().host_ports(0).port() == 1024);
  CHECK(packet.fds.at(claim.vsock().host_ports(0).fd()).number() == 11);
  REQUIRE(claim.disks_size() == 2);
  CHECK(packet.fds.at(claim.disks(0).fd()).number() == 12);
  CHECK(claim.disks(0).read_only());
  CHECK(claim.disks(0).serial() == "s");
  CHECK(packet.fds.at(claim.disks(1).fd()).number() == 13);
  CHECK(claim.start());
  claim_params.guest_cid = 0;
  REQUIRE(request.ParseFromString(encode_claim(6, claim_params).bytes));
  CHECK_FALSE(request.claim().has_vsock());
}
