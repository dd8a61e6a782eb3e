// SPDX-License-Identifier: Apache-2.0
//
// The agent's own encoding against protobuf's, both ways and for every message of
// proto/agent.proto.
#include "guest/agent/convert.h"

#include "guest/agent/convert_metadata.h"
#include "proto/agent.pb.h"

#include <doctest/doctest.h>

#include <random>

namespace mayfly::guest {
namespace {

// The frame's payload, as protobuf reads it.
template <typename Message>
Message read_back(const SendQueue& queue) {
  Message message;
  const auto payload = queue.pending().subspan(kFrameHeaderBytes);
  REQUIRE_UNARY(message.ParseFromArray(payload.data(), static_cast<int>(payload.size())));
  // Nothing in it that protobuf did not understand.
  CHECK_EQ(message.SerializeAsString().size(), payload.size());
  return message;
}

Result<ExecInput> parse(const google::protobuf::MessageLite& message) {
  const std::string bytes = message.SerializeAsString();
  return parse_exec_input(std::as_bytes(std::span(bytes)));
}

TEST_CASE("protobuf reads every message the agent sends") {
  SendQueue hello;
  add_hello(hello, {"1.2", "6.1", 4, 1ull << 40, 77, "no root"});
  const auto said = read_back<agent::AgentToHost>(hello).hello();
  CHECK_EQ(said.protocol_version(), kProtocolVersion);
  CHECK_EQ(said.agent_version(), "1.2");
  CHECK_EQ(said.kernel_release(), "6.1");
  CHECK_EQ(said.cpu_count(), 4u);
  CHECK_EQ(said.init_us(), 1ull << 40);
  CHECK_EQ(said.ready_us(), 77u);
  CHECK_EQ(said.failure(), "no root");

  SendQueue not_down;
  add_shutdown_failed(not_down, "because");
  CHECK_EQ(read_back<agent::AgentToHost>(not_down).shutdown_failed().message(), "because");
  SendQueue reseeded;
  add_reseeded(reseeded, {-7'000'000, "no"});
  CHECK_EQ(read_back<agent::AgentToHost>(reseeded).reseeded().clock_step_us(), -7'000'000);
  CHECK_EQ(read_back<agent::AgentToHost>(reseeded).reseeded().failure(), "no");
  SendQueue network;
  add_network_set(network, "no route");
  CHECK_EQ(read_back<agent::AgentToHost>(network).network_set().failure(), "no route");
  SendQueue started;
  add_started(started, 300);
  CHECK_EQ(read_back<agent::ExecOutput>(started).started().pid(), 300u);
  SendQueue exited;
  add_exited(exited, {137, 9});
  CHECK_EQ(read_back<agent::ExecOutput>(exited).exited().exit_code(), 137u);
  CHECK_EQ(read_back<agent::ExecOutput>(exited).exited().signal(), 9u);
  SendQueue good;
  add_exited(good, {0, 0});
  CHECK_UNARY(read_back<agent::ExecOutput>(good).has_exited());
  SendQueue failed;
  add_failed(failed, 2, "no\xff such");
  CHECK_EQ(read_back<agent::ExecOutput>(failed).failed().guest_errno(), 2u);
  CHECK_EQ(read_back<agent::ExecOutput>(failed).failed().message(), "no? such");
}

TEST_CASE("protobuf reads output of every size") {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{127}, size_t{128}, kMaxOutputBytes}) {
    const std::string bytes(size, 'o');
    SendQueue out;
    SendQueue err;
    add_output(out, OutputStream::kStdout, std::as_bytes(std::span(bytes)));
    add_output(err, OutputStream::kStderr, std::as_bytes(std::span(bytes)));
    CHECK_UNARY(read_back<agent::ExecOutput>(out).has_stdout());
    CHECK_UNARY(read_back<agent::ExecOutput>(out).stdout() == bytes);
    CHECK_UNARY(read_back<agent::ExecOutput>(err).stderr() == bytes);
  }
}

TEST_CASE("the agent reads a start as protobuf writes it") {
  agent::ExecInput message;
  auto& start = *message.mutable_start();
  start.add_argv("sh");
  start.add_argv("");
  start.add_argv(std::string(300, 'a'));
  start.add_env("A=");
  start.set_working_directory("/srv");
  start.set_terminal(true);
  start.mutable_window_size()->set_rows(24);
  start.mutable_window_size()->set_columns(65535);
  const auto input = parse(message);
  REQUIRE_UNARY(input.has_value());
  const auto& parsed = std::get<ExecStart>(*input);
  REQUIRE_EQ(parsed.argv.size(), 3u);
  CHECK_EQ(parsed.argv[0], "sh");
  CHECK_EQ(parsed.argv[1], "");
  CHECK_EQ(parsed.argv[2].size(), 300u);
  REQUIRE_EQ(parsed.env.size(), 1u);
  CHECK_EQ(parsed.env[0], "A=");
  CHECK_EQ(parsed.working_directory, "/srv");
  CHECK_UNARY(parsed.terminal);
  CHECK_EQ(parsed.window.rows, 24);
  CHECK_EQ(parsed.window.columns, 65535);
}

TEST_CASE("the agent reads who a command is for as protobuf writes it") {
  agent::ExecInput message;
  auto& start = *message.mutable_start_as();
  start.mutable_start()->add_argv("id");
  start.set_uid(4294967294);
  start.set_gid(8);
  start.add_groups(0);
  start.add_groups(70000);
  const auto input = parse(message);
  REQUIRE_UNARY(input.has_value());
  const auto& parsed = std::get<ExecStart>(*input);
  CHECK_EQ(parsed.argv, std::vector<std::string>{"id"});
  REQUIRE_UNARY(parsed.user.has_value());
  CHECK_EQ(parsed.user->uid, 4294967294u);
  CHECK_EQ(parsed.user->gid, 8u);
  CHECK_EQ(parsed.user->groups, std::vector<uint32_t>{0, 70000});

  start.set_uid(4294967295);
  CHECK_EQ(parse(message).error().reason(), "START_AS");
  start.set_uid(1);
  while (start.groups_size() < 65) start.add_groups(1);
  CHECK_EQ(parse(message).error().reason(), "START_AS");
  start.clear_groups();
  start.clear_start();
  CHECK_EQ(parse(message).error().reason(), "ARGV_EMPTY");
}

TEST_CASE("the agent reads every other input as protobuf writes it") {
  agent::ExecInput message;
  message.set_stdin(std::string("a\0b\xff", 4));
  CHECK_EQ(std::get<StdinBytes>(*parse(message)).bytes, std::string("a\0b\xff", 4));
  message.set_stdin_end(true);
  CHECK_UNARY(std::holds_alternative<StdinEnd>(*parse(message)));
  message.set_signal(15);
  CHECK_EQ(std::get<SendSignal>(*parse(message)).number, 15);
  message.mutable_window_size()->set_columns(80);
  CHECK_EQ(std::get<WindowSize>(*parse(message)).columns, 80);

  agent::HostToAgent host;
  host.mutable_shutdown()->set_mode(agent::Shutdown::MODE_REBOOT);
  std::string bytes = host.SerializeAsString();
  CHECK_EQ(std::get<ShutdownMode>(*parse_host_message(std::as_bytes(std::span(bytes)))),
           ShutdownMode::kReboot);
  host.mutable_shutdown()->set_mode(agent::Shutdown::MODE_POWEROFF);
  bytes = host.SerializeAsString();
  CHECK_EQ(std::get<ShutdownMode>(*parse_host_message(std::as_bytes(std::span(bytes)))),
           ShutdownMode::kPowerOff);
  host.mutable_restored()->set_entropy(std::string(31, '\0') + "e");
  host.mutable_restored()->set_realtime_ns(1ull << 60);
  bytes = host.SerializeAsString();
  const Restored restored =
      std::get<Restored>(*parse_host_message(std::as_bytes(std::span(bytes))));
  CHECK_EQ(restored.entropy, std::string(31, '\0') + "e");
  CHECK_EQ(restored.realtime_ns, 1ull << 60);
}

TEST_CASE("what cannot be followed is refused, and the error names the field") {
  const auto reason = [](const agent::ExecInput& message) {
    const auto input = parse(message);
    return input ? std::string("accepted") : input.error().reason();
  };
  agent::ExecInput message;
  CHECK_EQ(reason(message), "UNKNOWN_MESSAGE");
  message.mutable_start();
  CHECK_EQ(reason(message), "ARGV_EMPTY");
  message.mutable_start()->add_argv(std::string("a\0b", 3));
  CHECK_EQ(reason(message), "ARGV_NUL");
  message.mutable_start()->set_argv(0, "a");
  message.mutable_start()->add_env("=x");
  CHECK_EQ(reason(message), "ENV_ENTRY");
  message.mutable_start()->set_env(0, "x");
  CHECK_EQ(reason(message), "ENV_ENTRY");
  message.mutable_start()->clear_env();
  message.mutable_start()->mutable_window_size()->set_rows(65536);
  CHECK_EQ(reason(message), "WINDOW_SIZE");
  message.set_signal(0);
  CHECK_EQ(reason(message), "SIGNAL_NUMBER");
  message.set_signal(65);
  CHECK_EQ(reason(message), "SIGNAL_NUMBER");
  const std::string none;
  CHECK_EQ(parse_host_message(std::as_bytes(std::span(none))).error().reason(), "UNKNOWN_MESSAGE");
  const std::string mode_7("\x0a\x02\x08\x07", 4);
  CHECK_EQ(parse_host_message(std::as_bytes(std::span(mode_7))).error().reason(), "SHUTDOWN_MODE");
}

TEST_CASE("entropy too short or too long, and a time that cannot be, are refused") {
  const auto reason = [](size_t entropy, uint64_t realtime_ns) {
    agent::HostToAgent message;
    message.mutable_restored()->set_entropy(std::string(entropy, 'e'));
    message.mutable_restored()->set_realtime_ns(realtime_ns);
    const std::string bytes = message.SerializeAsString();
    const auto parsed = parse_host_message(std::as_bytes(std::span(bytes)));
    return parsed ? std::string("accepted") : parsed.error().reason();
  };
  CHECK_EQ(reason(kMinEntropyBytes, 1), "accepted");
  CHECK_EQ(reason(kMaxEntropyBytes, (1ull << 63) - 1), "accepted");
  CHECK_EQ(reason(0, 1), "RESTORED_ENTROPY");
  CHECK_EQ(reason(kMinEntropyBytes - 1, 1), "RESTORED_ENTROPY");
  CHECK_EQ(reason(kMaxEntropyBytes + 1, 1), "RESTORED_ENTROPY");
  CHECK_EQ(reason(kMinEntropyBytes, 0), "RESTORED_REALTIME");
  CHECK_EQ(reason(kMinEntropyBytes, 1ull << 63), "RESTORED_REALTIME");
}

TEST_CASE("a message cut short anywhere is refused or a shorter message, never read past") {
  agent::ExecInput message;
  message.mutable_start()->add_argv("program");
  message.mutable_start()->set_working_directory("/somewhere");
  const std::string bytes = message.SerializeAsString();
  for (size_t size = 0; size < bytes.size(); ++size) {
    const std::string part = bytes.substr(0, size);
    CHECK_UNARY(!parse_exec_input(std::as_bytes(std::span(part))).has_value());
  }
}

TEST_CASE("whatever protobuf refuses, the agent refuses") {
  std::mt19937_64 random(7);
  agent::ExecInput seed;
  seed.mutable_start()->add_argv("program");
  seed.mutable_start()->mutable_window_size()->set_rows(3);
  const std::string good = seed.SerializeAsString();
  int refused = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string bytes = good;
    for (uint64_t flips = 1 + random() % 3; flips > 0; --flips) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    agent::ExecInput message;
    if (message.ParseFromString(bytes)) continue;
    // Two things protobuf is stricter about do not matter here: text need not be UTF-8, and groups,
    // which it knows and we refuse, may be unfinished.
    const auto input = parse_exec_input(std::as_bytes(std::span(bytes)));
    if (input && std::holds_alternative<ExecStart>(*input)) {
      const auto& start = std::get<ExecStart>(*input);
      const auto ascii = [](const std::string& text) {
        return std::ranges::all_of(text, [](char c) { return c >= 0; });
      };
      CHECK_UNARY(!(std::ranges::all_of(start.argv, ascii) &&
                    std::ranges::all_of(start.env, ascii) && ascii(start.working_directory)));
    }
    ++refused;
  }
  CHECK_GT(refused, 1000);
}

TEST_CASE("the metadata service's messages are protobuf's") {
  SendQueue queue;
  add_metadata_request(queue, {.id = 7,
                               .token_ttl_s = 60,
                               .path = "/a\xff",
                               .token = "t",
                               .wants_json = true,
                               .offset = 1 << 17});
  const auto request = read_back<agent::AgentToHost>(queue).metadata_request();
  CHECK_EQ(request.id(), 7);
  CHECK_EQ(request.token_ttl_s(), 60);
  CHECK_EQ(request.path(), "/a\xff");
  CHECK_EQ(request.token(), "t");
  CHECK(request.wants_json());
  CHECK_EQ(request.offset(), 1 << 17);

  const auto read = [](const agent::HostToAgent& message) {
    const std::string bytes = message.SerializeAsString();
    return parse_host_message(std::as_bytes(std::span(bytes)));
  };
  agent::HostToAgent message;
  message.mutable_metadata_offer()->set_is_there(true);
  CHECK(std::get<MetadataOffer>(*read(message)).is_there);
  message.mutable_metadata_offer()->set_is_there(false);
  CHECK_FALSE(std::get<MetadataOffer>(*read(message)).is_there);

  agent::MetadataAnswer& out = *message.mutable_metadata_answer();
  out.set_id(7);
  out.set_status(agent::MetadataAnswer::STATUS_BUSY);
  out.set_content(std::string("\0x", 2));
  out.set_total_bytes(9);
  out.set_version(1ull << 40);
  out.set_is_json(true);
  const auto answer = std::get<MetadataAnswer>(*read(message));
  CHECK_EQ(answer.id, 7);
  CHECK(answer.status == MetadataAnswer::Status::kBusy);
  CHECK_EQ(answer.content, std::string("\0x", 2));
  CHECK_EQ(answer.total_bytes, 9);
  CHECK_EQ(answer.version, 1ull << 40);
  CHECK(answer.is_json);
  out.set_total_bytes(kMaxMetadataBytes + 1);
  CHECK_EQ(read(message).error().reason(), "METADATA_SIZE");
  out.set_total_bytes(9);
  out.set_content(std::string(kMaxMetadataPiece + 1, 'x'));
  CHECK_EQ(read(message).error().reason(), "METADATA_SIZE");
  out.clear_content();
  out.set_status(static_cast<agent::MetadataAnswer::Status>(6));
  CHECK_EQ(read(message).error().reason(), "METADATA_STATUS");
}

}  // namespace
}  // namespace mayfly::guest
