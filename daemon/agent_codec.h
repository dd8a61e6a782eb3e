// SPDX-License-Identifier: Apache-2.0
//
// proto/agent.proto as plain values: frames to and from mayfly-agent. The guest writes what is read
// here, so frames are bounded and text is made printable.
#pragma once

#include "base/error.h"
#include "daemon/net_spec.h"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace mayfly::daemon {

inline constexpr uint32_t kAgentPort = 1024;
inline constexpr size_t kMaxFrameBytes = 64 * 1024;
/// How much standard input goes into one frame.
inline constexpr size_t kMaxStdinBytes = 32 * 1024;

/// Cuts a stream into frames.
class FrameReader {
 public:
  /// Adds what was read; at most one frame and a half is ever held.
  void feed(std::span<const std::byte> bytes);
  /// The next whole frame's payload, nothing yet, or an error for a length above the limit.
  Result<std::optional<std::string>> next();

 private:
  std::string held_;
  size_t used_ = 0;
};

struct AgentHello {
  uint32_t protocol_version = 0;
  std::string agent_version;
  std::string kernel_release;
  uint32_t cpu_count = 0;
  uint64_t init_us = 0;
  uint64_t ready_us = 0;
  std::string failure;
};
struct AgentShutdownFailed {
  std::string message;
};
struct AgentReseeded {
  int64_t clock_step_us = 0;
  /// Non-empty: the guest may still have the random numbers or the time of another one.
  std::string failure;
};
struct AgentNetworkSet {
  /// Non-empty: not all of it was done.
  std::string failure;
};
/// A program of the guest asks for a token, where token_ttl_s is not 0, or for a part of the VM's
/// metadata.
struct AgentMetadataRequest {
  uint32_t id = 0;
  uint32_t token_ttl_s = 0;
  std::string path = {};
  std::string token = {};
  bool as_json = false;
  uint32_t offset = 0;
};
/// monostate: a message that this daemon does not know.
using AgentMessage = std::variant<std::monostate, AgentHello, AgentShutdownFailed, AgentReseeded,
                                  AgentNetworkSet, AgentMetadataRequest>;
Result<AgentMessage> parse_agent_message(const std::string& payload);

inline constexpr size_t kMaxMetadataPiece = 16 << 10;

struct AgentMetadataAnswer {
  /// As proto/agent.proto counts them.
  enum class Status : uint8_t { kOk = 1, kUnauthorized, kNotFound, kBadPath, kBusy };
  uint32_t id = 0;
  Status status = Status::kOk;
  /// At most kMaxMetadataPiece.
  std::string content = {};
  uint32_t total_bytes = 0;
  uint64_t version = 0;
  bool is_json = false;
};

/// One of the guest's network devices, as it is to be set.
struct AgentInterface {
  MacAddress mac = {};
  /// Absent: the addresses are the guest's own affair.
  std::optional<GuestNetwork> network;
};

struct WindowSize {
  uint32_t rows = 0;
  uint32_t columns = 0;
};
struct ExecUser {
  uint32_t uid = 0;
  uint32_t gid = 0;
  std::vector<uint32_t> groups;
};
struct ExecStart {
  std::vector<std::string> argv;
  std::vector<std::string> env;
  std::string working_directory;
  bool terminal = false;
  std::optional<WindowSize> window_size;
  /// Absent: root.
  std::optional<ExecUser> user = std::nullopt;
};

struct ExecStarted {
  uint32_t pid = 0;
};
struct ExecStdout {
  std::string bytes;
};
struct ExecStderr {
  std::string bytes;
};
struct ExecExited {
  uint32_t exit_code = 0;
  uint32_t signal = 0;
};
struct ExecFailed {
  uint32_t guest_errno = 0;
  std::string message;
};
using ExecOutput =
    std::variant<std::monostate, ExecStarted, ExecStdout, ExecStderr, ExecExited, ExecFailed>;
Result<ExecOutput> parse_exec_output(const std::string& payload);

/// Each gives a whole frame, length first.
std::string encode_poweroff();
/// `entropy` is 32 to 256 bytes of this guest's own; `realtime_ns` is since 1970.
std::string encode_restored(std::string_view entropy, uint64_t realtime_ns);
/// In the order of the devices' places.
std::string encode_network(std::span<const AgentInterface> interfaces);
std::string encode_metadata_offer(bool is_there);
std::string encode_metadata_answer(const AgentMetadataAnswer& answer);
Result<std::string> encode_exec_start(const ExecStart& start);
std::string encode_exec_stdin(std::string_view bytes);
std::string encode_exec_stdin_end();
std::string encode_exec_signal(uint32_t signal);
std::string encode_exec_window_size(const WindowSize& size);

}  // namespace mayfly::daemon
