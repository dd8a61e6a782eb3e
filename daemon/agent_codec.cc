// SPDX-License-Identifier: Apache-2.0
#include "daemon/agent_codec.h"

#include "daemon/text.h"
#include "proto/agent.pb.h"

#include <algorithm>

namespace mayfly::daemon {

namespace {

constexpr size_t kHeaderBytes = 4;
constexpr size_t kMaxTextBytes = 1024;

template <typename Message>
std::string frame(const Message& message) {
  const std::string payload = message.SerializeAsString();
  const auto size = static_cast<uint32_t>(payload.size());
  std::string out;
  out.reserve(kHeaderBytes + payload.size());
  for (unsigned shift = 0; shift < 32; shift += 8) out.push_back(static_cast<char>(size >> shift));
  return out + payload;
}

void to_proto(const WindowSize& in, agent::ExecInput::WindowSize& out) {
  out.set_rows(in.rows);
  out.set_columns(in.columns);
}

}  // namespace

void FrameReader::feed(std::span<const std::byte> bytes) {
  held_.erase(0, used_);
  used_ = 0;
  const size_t before = held_.size();
  held_.resize(before + bytes.size());
  std::transform(bytes.begin(), bytes.end(), held_.begin() + static_cast<ptrdiff_t>(before),
                 [](std::byte byte) { return static_cast<char>(byte); });
}

Result<std::optional<std::string>> FrameReader::next() {
  const size_t left = held_.size() - used_;
  if (left < kHeaderBytes) return std::nullopt;
  uint32_t size = 0;
  for (unsigned i = 0; i < kHeaderBytes; ++i) {
    size |= static_cast<uint32_t>(static_cast<unsigned char>(held_[used_ + i])) << (8 * i);
  }
  if (size > kMaxFrameBytes) {
    return fail({Code::kUnavailable, "AGENT_FRAME"},
                "the guest's agent sent a frame of %u bytes, above %zu", size, kMaxFrameBytes);
  }
  if (left - kHeaderBytes < size) return std::nullopt;
  std::string payload = held_.substr(used_ + kHeaderBytes, size);
  used_ += kHeaderBytes + size;
  return payload;
}

Result<AgentMessage> parse_agent_message(const std::string& payload) {
  agent::AgentToHost in;
  if (!in.ParseFromString(payload)) {
    return fail({Code::kUnavailable, "AGENT_FRAME"}, "the guest's agent sent a malformed message");
  }
  if (in.has_hello()) {
    const agent::Hello& hello = in.hello();
    return AgentHello{
        .protocol_version = hello.protocol_version(),
        .agent_version = printable(hello.agent_version(), 64),
        .kernel_release = printable(hello.kernel_release(), 128),
        .cpu_count = hello.cpu_count(),
        .init_us = hello.init_us(),
        .ready_us = hello.ready_us(),
        .failure = printable(hello.failure(), kMaxTextBytes),
    };
  }
  if (in.has_shutdown_failed()) {
    return AgentShutdownFailed{printable(in.shutdown_failed().message(), kMaxTextBytes)};
  }
  if (in.has_reseeded()) {
    return AgentReseeded{in.reseeded().clock_step_us(),
                         printable(in.reseeded().failure(), kMaxTextBytes)};
  }
  if (in.has_network_set()) {
    return AgentNetworkSet{printable(in.network_set().failure(), kMaxTextBytes)};
  }
  if (in.has_metadata_request()) {
    const agent::MetadataRequest& request = in.metadata_request();
    return AgentMetadataRequest{.id = request.id(),
                                .token_ttl_s = request.token_ttl_s(),
                                .path = request.path(),
                                .token = request.token(),
                                .as_json = request.wants_json(),
                                .offset = request.offset()};
  }
  return AgentMessage();
}

Result<ExecOutput> parse_exec_output(const std::string& payload) {
  agent::ExecOutput in;
  if (!in.ParseFromString(payload)) {
    return fail({Code::kUnavailable, "AGENT_FRAME"}, "the guest's agent sent malformed output");
  }
  switch (in.message_case()) {
    case agent::ExecOutput::kStarted:
      return ExecStarted{in.started().pid()};
    case agent::ExecOutput::kStdout:
      return ExecStdout{std::move(*in.mutable_stdout())};
    case agent::ExecOutput::kStderr:
      return ExecStderr{std::move(*in.mutable_stderr())};
    case agent::ExecOutput::kExited:
      return ExecExited{in.exited().exit_code() & 0xff, in.exited().signal()};
    case agent::ExecOutput::kFailed:
      return ExecFailed{in.failed().guest_errno(), printable(in.failed().message(), kMaxTextBytes)};
    default:
      return ExecOutput();
  }
}

std::string encode_poweroff() {
  agent::HostToAgent message;
  message.mutable_shutdown()->set_mode(agent::Shutdown::MODE_POWEROFF);
  return frame(message);
}

std::string encode_restored(std::string_view entropy, uint64_t realtime_ns) {
  agent::HostToAgent message;
  agent::Restored& restored = *message.mutable_restored();
  restored.set_entropy(entropy.data(), entropy.size());
  restored.set_realtime_ns(realtime_ns);
  return frame(message);
}

std::string encode_network(std::span<const AgentInterface> interfaces) {
  agent::HostToAgent message;
  agent::Network& network = *message.mutable_network();
  for (const AgentInterface& in : interfaces) {
    agent::Interface& out = *network.add_interfaces();
    out.set_mac(in.mac.data(), in.mac.size());
    if (!in.network) continue;
    out.set_address(in.network->address.address);
    out.set_prefix_bits(in.network->address.bits);
    out.set_gateway(in.network->gateway.value_or(0));
    for (const uint32_t server : in.network->nameservers) out.add_nameservers(server);
  }
  return frame(message);
}

std::string encode_metadata_offer(bool is_there) {
  agent::HostToAgent message;
  message.mutable_metadata_offer()->set_is_there(is_there);
  return frame(message);
}

std::string encode_metadata_answer(const AgentMetadataAnswer& answer) {
  agent::HostToAgent message;
  agent::MetadataAnswer& out = *message.mutable_metadata_answer();
  out.set_id(answer.id);
  out.set_status(static_cast<agent::MetadataAnswer::Status>(answer.status));
  out.set_content(answer.content);
  out.set_total_bytes(answer.total_bytes);
  out.set_version(answer.version);
  out.set_is_json(answer.is_json);
  return frame(message);
}

Result<std::string> encode_exec_start(const ExecStart& start) {
  agent::ExecInput message;
  agent::ExecInput::Start& out =
      start.user ? *message.mutable_start_as()->mutable_start() : *message.mutable_start();
  if (start.user) {
    message.mutable_start_as()->set_uid(start.user->uid);
    message.mutable_start_as()->set_gid(start.user->gid);
    for (const uint32_t group : start.user->groups) message.mutable_start_as()->add_groups(group);
  }
  for (const std::string& arg : start.argv) out.add_argv(arg);
  for (const std::string& entry : start.env) out.add_env(entry);
  out.set_working_directory(start.working_directory);
  out.set_terminal(start.terminal);
  if (start.window_size) to_proto(*start.window_size, *out.mutable_window_size());
  std::string bytes = frame(message);
  if (bytes.size() > kMaxFrameBytes) {
    return fail({Code::kInvalidArgument, "COMMAND_TOO_LONG"},
                "argv and env: %zu bytes in all are above the limit of %zu", bytes.size(),
                kMaxFrameBytes);
  }
  return bytes;
}

std::string encode_exec_stdin(std::string_view bytes) {
  agent::ExecInput message;
  message.set_stdin(bytes.data(), bytes.size());
  return frame(message);
}

std::string encode_exec_stdin_end() {
  agent::ExecInput message;
  message.set_stdin_end(true);
  return frame(message);
}

std::string encode_exec_signal(uint32_t signal) {
  agent::ExecInput message;
  message.set_signal(signal);
  return frame(message);
}

std::string encode_exec_window_size(const WindowSize& size) {
  agent::ExecInput message;
  to_proto(size, *message.mutable_window_size());
  return frame(message);
}

}  // namespace mayfly::daemon
