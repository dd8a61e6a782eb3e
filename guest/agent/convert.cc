// SPDX-License-Identifier: Apache-2.0
#include "guest/agent/convert.h"

#include <algorithm>
#include <limits>

#include "proto/agent.pb.h"

namespace mayfly::guest {
namespace {

// Texts of ours that travel: what fits into a frame with everything else in it.
constexpr size_t kMaxText = 4096;
constexpr uint32_t kMaxSignal = 64;

template <typename Message>
void add_message(SendQueue& queue, const Message& message) {
  std::string bytes;
  message.SerializeToString(&bytes);
  queue.add_frame(std::as_bytes(std::span(bytes)));
}

// Proto strings must be UTF-8, and a path in an error text need not be.
std::string printable(std::string_view text) {
  std::string out(text.substr(0, kMaxText));
  std::ranges::replace_if(
      out, [](char c) { return c < ' ' || c > '~'; }, '?');
  return out;
}

Result<> parse(std::span<const std::byte> payload, google::protobuf::MessageLite& message) {
  if (payload.size() > kMaxFrameBytes ||
      !message.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) {
    return fail({Code::kInvalidArgument, "BAD_MESSAGE"}, "a frame of %zu bytes is not a message",
                payload.size());
  }
  return {};
}

Result<WindowSize> window_of(const agent::ExecInput_WindowSize& window) {
  constexpr uint32_t kMax = std::numeric_limits<uint16_t>::max();
  if (window.rows() > kMax || window.columns() > kMax) {
    return fail({Code::kInvalidArgument, "WINDOW_SIZE"}, "window_size: %u x %u is above %u",
                window.rows(), window.columns(), kMax);
  }
  return WindowSize{static_cast<uint16_t>(window.rows()), static_cast<uint16_t>(window.columns())};
}

bool has_nul(const std::string& text) { return text.find('\0') != text.npos; }

Result<ExecInput> start_of(agent::ExecInput_Start& message) {
  ExecStart start;
  if (message.argv().empty() || message.argv(0).empty()) {
    return fail({Code::kInvalidArgument, "ARGV_EMPTY"}, "argv: names no program");
  }
  for (std::string& argument : *message.mutable_argv()) {
    if (has_nul(argument))
      return fail({Code::kInvalidArgument, "ARGV_NUL"}, "argv: holds a zero byte");
    start.argv.push_back(std::move(argument));
  }
  for (std::string& entry : *message.mutable_env()) {
    const size_t equals = entry.find('=');
    if (has_nul(entry) || equals == 0 || equals == entry.npos) {
      return fail({Code::kInvalidArgument, "ENV_ENTRY"}, "env: '%.64s' is not KEY=VALUE",
                  entry.c_str());
    }
    start.env.push_back(std::move(entry));
  }
  if (has_nul(message.working_directory())) {
    return fail({Code::kInvalidArgument, "WORKING_DIRECTORY"},
                "working_directory: holds a zero byte");
  }
  start.working_directory = message.working_directory();
  start.terminal = message.terminal();
  start.window = TRY(window_of(message.window_size()));
  return start;
}

}  // namespace

Result<ExecInput> parse_exec_input(std::span<const std::byte> payload) {
  agent::ExecInput message;
  TRY(parse(payload, message));
  switch (message.message_case()) {
    case agent::ExecInput::kStart:
      return start_of(*message.mutable_start());
    case agent::ExecInput::kStdin:
      return StdinBytes{std::move(*message.mutable_stdin())};
    case agent::ExecInput::kStdinEnd:
      return StdinEnd{};
    case agent::ExecInput::kSignal:
      if (message.signal() == 0 || message.signal() > kMaxSignal) {
        return fail({Code::kInvalidArgument, "SIGNAL_NUMBER"}, "signal: %u is not 1 to %u",
                    message.signal(), kMaxSignal);
      }
      return SendSignal{static_cast<int>(message.signal())};
    case agent::ExecInput::kWindowSize:
      return TRY(window_of(message.window_size()));
    case agent::ExecInput::MESSAGE_NOT_SET:
      break;
  }
  return fail({Code::kInvalidArgument, "UNKNOWN_MESSAGE"}, "a message this agent does not know");
}

Result<ShutdownMode> parse_host_message(std::span<const std::byte> payload) {
  agent::HostToAgent message;
  TRY(parse(payload, message));
  if (!message.has_shutdown()) {
    return fail({Code::kInvalidArgument, "UNKNOWN_MESSAGE"}, "a message this agent does not know");
  }
  switch (message.shutdown().mode()) {
    case agent::Shutdown::MODE_POWEROFF:
      return ShutdownMode::kPowerOff;
    case agent::Shutdown::MODE_REBOOT:
      return ShutdownMode::kReboot;
    default:
      return fail({Code::kInvalidArgument, "SHUTDOWN_MODE"},
                  "shutdown.mode: %d is neither POWEROFF nor REBOOT",
                  static_cast<int>(message.shutdown().mode()));
  }
}

void add_hello(SendQueue& queue, const Hello& hello) {
  agent::AgentToHost message;
  agent::Hello& out = *message.mutable_hello();
  out.set_protocol_version(kProtocolVersion);
  out.set_agent_version(printable(hello.agent_version));
  out.set_kernel_release(printable(hello.kernel_release));
  out.set_cpu_count(hello.cpu_count);
  out.set_init_us(hello.init_us);
  out.set_ready_us(hello.ready_us);
  out.set_failure(printable(hello.failure));
  add_message(queue, message);
}

void add_shutdown_failed(SendQueue& queue, std::string_view text) {
  agent::AgentToHost message;
  message.mutable_shutdown_failed()->set_message(printable(text));
  add_message(queue, message);
}

void add_started(SendQueue& queue, uint32_t pid) {
  agent::ExecOutput message;
  message.mutable_started()->set_pid(pid);
  add_message(queue, message);
}

void add_output(SendQueue& queue, OutputStream stream, std::span<const std::byte> bytes) {
  CHECK(bytes.size() <= kMaxOutputBytes);
  agent::ExecOutput message;
  if (stream == OutputStream::kStdout) {
    message.set_stdout(bytes.data(), bytes.size());
  } else {
    message.set_stderr(bytes.data(), bytes.size());
  }
  add_message(queue, message);
}

void add_exited(SendQueue& queue, const Exited& exited) {
  agent::ExecOutput message;
  message.mutable_exited()->set_exit_code(exited.exit_code);
  message.mutable_exited()->set_signal(exited.signal);
  add_message(queue, message);
}

void add_failed(SendQueue& queue, int guest_errno, std::string_view text) {
  agent::ExecOutput message;
  message.mutable_failed()->set_guest_errno(static_cast<uint32_t>(guest_errno));
  message.mutable_failed()->set_message(printable(text));
  add_message(queue, message);
}

}  // namespace mayfly::guest
